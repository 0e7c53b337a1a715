"""
The removal of a task from its root: of all of it, or of nothing, whenever a crash comes.

========================= ========================= ==========================
name of the directory     state                     after a crash
========================= ========================= ==========================
``TASK-…``                a task                    nothing has happened
``.leaving-TASK-…``       checked once more         the task is put back
``.gone-TASK-…``          removed from the registry the removal is finished
========================= ========================= ==========================

Under the second name no agent can be deployed into the task, so the check stays valid. A
working process holds a lock on the directory; an unlocked one belongs to a dead process. The
journals of the task's agents are counted, and removed with it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from orchestrator_core.deployment.tasks import EXPORTING_PREFIX
from orchestrator_core.exceptions import (
    InvalidId,
    JournalDamaged,
    OrchestratorError,
    SagaNotFound,
    StorageError,
    TaskRunning,
)
from orchestrator_core.model.status import is_active
from orchestrator_core.operations.metrics.summary import compact_journals
from orchestrator_core.operations.retention.safe_dir import locked_directory
from orchestrator_core.operations.retention.tarball import stamp_tree
from orchestrator_core.reconcile.legacy.unlisted import signs_of_life
from orchestrator_core.reconcile.sweep.named_files import scan_task
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.system import durable
from orchestrator_core.system.names import check_id
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.operations.retention.safe_dir import FileState
    from orchestrator_core.registry.document import Document
    from orchestrator_core.saga import Sagas

_GONE = ".gone-"


def remove_task(
    context: RootContext, sagas: Sagas, task_id: str, states: Mapping[str, FileState]
) -> list[str]:
    """
    Remove a task that still has *states*, and return the errors of what could not be removed.

    Raises:
        FileNotFoundError: There is no such task.
        TaskRunning, StorageError: An agent is not over, a file has changed, or the system
            refuses. The task is there as it was.
    """
    root, task = context.layout.root, context.layout.task(task_id)
    leaving, gone = root / f"{EXPORTING_PREFIX}{task_id}", root / f"{_GONE}{task_id}"
    with locked_directory(task, "remove") as is_free:
        if not is_free:
            raise StorageError(f"another process removes {task}")
        try:
            _rename(task, leaving)
            _check_unchanged(sagas, task_id, leaving, states)
            with context.global_registry.transaction() as known:
                # A listed task is counted exactly once.
                if known["tasks"].pop(task_id, None) is not None:
                    known["past_tasks"] = int(known.get("past_tasks") or 0) + 1
            _rename(leaving, gone)
        except BaseException:
            if os.path.lexists(leaving):
                _rename(leaving, task)
            raise
        return _finish(context, sagas, task_id, gone)


def finish_removals(context: RootContext, sagas: Sagas) -> list[str]:
    """Finish the removals of killed processes, and return the errors."""
    failed: list[str] = []
    for gone in sorted(context.layout.root.glob(f"{_GONE}*")):
        with contextlib.suppress(InvalidId, FileNotFoundError, StorageError):  # No removed task.
            task_id = check_id("task", gone.name.removeprefix(_GONE))
            with locked_directory(gone, "remove") as is_free:
                failed += _finish(context, sagas, task_id, gone) if is_free else []
    return failed


def journals_of(sagas: Sagas, task_id: str) -> list[str]:
    """Return the closed sagas of a task, including failed deployments, sorted."""
    found = []
    for saga_id in sagas.journals.closed_ids():
        with contextlib.suppress(FileNotFoundError, JournalDamaged, StorageError):
            if sagas.journals.closed_labels(saga_id).get("task_id") == task_id:
                found.append(saga_id)
    return sorted(found)


def _rename(source: Path, target: Path) -> None:
    with storage_errors(f"rename to {target.name}", source):
        os.rename(source, target)  # noqa: PTH104 - `os` calls are where the tests break in
    durable.fsync_directory(source.parent)


def _finish(context: RootContext, sagas: Sagas, task_id: str, gone: Path) -> list[str]:
    """Count and remove the task's journals, then remove its directory."""
    try:
        result = compact_journals(context, sagas, journals_of(sagas, task_id))
        with storage_errors("remove", gone):
            remove_tree(gone)
    except OrchestratorError as error:
        return [f"{gone.name}: {error}"]
    return [f"journal {name}: {why}" for name, why in result.failed.items()]


# --- checks ---------------------------------------------------------------------------------------


def check_finished(sagas: Sagas, task_id: str, document: Document) -> None:
    """
    Check that all agents of a task have ended.

    Raises:
        TaskRunning: An agent is active, or a saga of the task is open or unreadable.
    """
    agents = {str(record.get("id")): record for record in document["agents"]}
    active = {name for name, record in agents.items() if is_active(record.get("status"))}
    for saga_id in sagas.journals.ids():
        try:
            if saga_id in agents or sagas.history(saga_id).labels.get("task_id") == task_id:
                active.add(saga_id)
        except SagaNotFound:
            continue
        except OrchestratorError:
            active.add(saga_id)  # The task of an unreadable saga is unknown.
    if active:
        raise TaskRunning(
            f"task {task_id!r} is not over: {', '.join(sorted(active))}",
            hint=f"orchestrator-core ps --task {task_id}; then kill, or recover, each",
        )


def check_unlisted(context: RootContext, sagas: Sagas, task_id: str, document: Document) -> None:
    """
    Check that a task has no files of an agent that no registry lists and that may be alive.

    Raises:
        TaskRunning: An agent of another system may work with these files.
    """
    known = {str(record.get("id")) for record in document["agents"]}
    files = scan_task(context.layout, task_id)
    names = {file.agent_id for file in files} - known - {*sagas.journals.closed_ids()}
    signs = signs_of_life(context, dict.fromkeys(names, task_id))
    if signs:
        found = "; ".join(f"{name}: {sign}" for name, sign in sorted(signs.items()))
        raise TaskRunning(
            f"task {task_id!r} has files of agents that no registry lists and that may be alive: "
            f"{found}",
            hint="end them where they were started, or export without removing",
        )


def _check_unchanged(
    sagas: Sagas, task_id: str, path: Path, states: Mapping[str, FileState]
) -> None:
    """Check that the task, which now has another *path*, has ended and is as it was packed."""
    document = Registry(path / "AGENT_REGISTRY.json", schema=TASK).read_or_none()
    if document is None:
        raise StorageError(f"the registry of task {task_id!r} cannot be read any more")
    check_finished(sagas, task_id, document)
    if stamp_tree(path) != states:
        raise StorageError(
            f"task {task_id!r} has changed while it was exported",
            hint="it was not removed, and the file lacks the change; export it again",
        )
