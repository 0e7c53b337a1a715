"""
A task leaves its root: all of it, or none, whatever instant a crash chooses.

========================= ============================ =========================
the directory is called   it is                        if who took it is killed
========================= ============================ =========================
``TASK-…``                a task                       nothing has happened
``.leaving-TASK-…``       being looked at once more    it is put back
``.gone-TASK-…``          decided: not a task any more removing it is finished
========================= ============================ =========================

Under its first new name nobody can deploy into it, so what is seen then stays so.
Whoever is at work holds a lock on the directory; what nobody holds is a dead
one's. The journals of its agents are counted, and go with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from orchestrator_core.deployment.tasks import EXPORTING_PREFIX
from orchestrator_core.exceptions import (
    InvalidId,
    JournalDamaged,
    OrchestratorError,
    StorageError,
)
from orchestrator_core.operations import metrics
from orchestrator_core.system import durable, locks
from orchestrator_core.system.names import check_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry.document import Document
    from orchestrator_core.saga import Sagas

_GONE = ".gone-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_task(
    context: RootContext, sagas: Sagas, task_id: str, *, insist: Callable[[Path], None]
) -> list[str]:
    """
    Take a task out of its root; return what of it could not be removed, and will be later.

    *insist* is called when nobody can change it any more, with its present path;
    if it raises, the task is put back as it was.

    Raises:
        FileNotFoundError: There is no such task.
        StorageError: Refused; the task is there as it was.
    """
    root, task = context.layout.root, context.layout.task(task_id)
    leaving, gone = root / f"{EXPORTING_PREFIX}{task_id}", root / f"{_GONE}{task_id}"
    with storage_errors("remove", task, allow=(FileNotFoundError,)):
        fd = os.open(task, _DIRECTORY)
    try:
        if not locks.try_lock(fd):
            raise StorageError(f"{task} is being removed by somebody else")
        try:
            _rename(task, leaving)
            insist(leaving)
            with context.global_registry.transaction() as known:
                _leave(known, task_id)
            _rename(leaving, gone)
        except BaseException:
            if os.path.lexists(leaving):
                _rename(leaving, task)
            raise
        return _finish(context, sagas, task_id, gone)
    finally:
        os.close(fd)


def _rename(source: Path, target: Path) -> None:
    with storage_errors(f"rename to {target.name}", source):
        os.rename(source, target)  # noqa: PTH104 - `os` calls are where the tests break in
    durable.fsync_directory(source.parent)


def _leave(known: Document, task_id: str) -> None:
    """Take a task out of the global registry; being listed is what guards the count."""
    if known["tasks"].pop(task_id, None) is not None:
        known["past_tasks"] = int(known.get("past_tasks") or 0) + 1


def _finish(context: RootContext, sagas: Sagas, task_id: str, gone: Path) -> list[str]:
    """Count and remove its journals, then what is left of its directory."""
    try:
        forgotten = metrics.compact_journals(context, sagas, journals_of(sagas, task_id))
        failed = [f"journal {name}: {why}" for name, why in forgotten.failed.items()]
        with storage_errors("remove", gone):
            shutil.rmtree(gone)
        durable.fsync_directory(gone.parent)
    except OrchestratorError as error:
        return [f"{gone.name}: {error}"]
    return failed


def journals_of(sagas: Sagas, task_id: str) -> list[str]:
    """Return the closed sagas of a task, those that never came to be among them, sorted."""
    journals = sagas.journals
    found = []
    for saga_id in journals.closed_ids():
        with contextlib.suppress(FileNotFoundError, JournalDamaged, StorageError):
            if journals.closed_labels(saga_id).get("task_id") == task_id:
                found.append(saga_id)
    return sorted(found)


def finish_removals(context: RootContext, sagas: Sagas) -> list[str]:
    """Finish what killed removers have begun; return what could not be finished."""
    failed: list[str] = []
    for left in sorted(context.layout.root.glob(f"{_GONE}*")):
        try:
            task_id = check_id("task", left.name.removeprefix(_GONE))
            fd = os.open(left, _DIRECTORY)
        except (InvalidId, OSError):
            continue  # It is none of ours.
        try:
            if locks.try_lock(fd):
                failed += _finish(context, sagas, task_id, left)
        finally:
            os.close(fd)
    return failed
