"""
An export: one task, whole, in one tar file, and perhaps nowhere else any more.

The tar file gets its name when it is complete, on the disk, and read back; what
has that name already is never replaced. Only then is the task taken away, and only
if it is still what was packed.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment import tasks
from orchestrator_core.exceptions import (
    InvalidInput,
    OrchestratorError,
    SagaNotFound,
    StorageError,
    TaskRunning,
)
from orchestrator_core.model.status import is_active
from orchestrator_core.operations.retention import remove_task as removal
from orchestrator_core.operations.retention.retention_report import ExportReport
from orchestrator_core.operations.retention.tarball import FileStamp, pack, read_back, stamp_tree
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.system import durable, locks
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.operations.retention.tarball import Packing
    from orchestrator_core.registry.document import Document
    from orchestrator_core.saga import Sagas


def export(
    context: RootContext,
    sagas: Sagas,
    task_id: str,
    target: str | os.PathLike[str],
    *,
    remove: bool = False,
) -> ExportReport:
    """Do what :meth:`Orchestrator.export_task` promises."""
    start = time.monotonic()
    tasks.clean_temp_dirs(context.layout.root)
    removal.finish_removals(context, sagas)
    task = context.layout.task(task_id)
    _insist_on_finished(sagas, task_id, context.task_registry(task_id).read())
    place = _checked(target, task)
    marks = stamp_tree(task)
    journals = removal.journals_of(sagas, task_id)

    def fill(packing: Packing) -> None:
        packing.add_tree(task, task_id, marks)
        for saga_id in journals:
            path = sagas.journals.closed_file(saga_id)
            mark = FileStamp.of(os.lstat(path))
            packing.add(path, str(path.relative_to(context.layout.root)), mark)

    with _new_file(place) as fd:
        packed = _pack(fd, fill, place)
        size = os.fstat(fd).st_size
    report = ExportReport(
        task_id=task_id,
        target=str(place),
        files=len(packed.members),
        bytes=sum(member.size for member in packed.members),
        size=size,
        journals=tuple(journals),
        skipped=tuple(packed.skipped),
    )
    if remove:
        left = removal.remove_task(
            context,
            sagas,
            task_id,
            insist=lambda path: _insist_on_the_same(sagas, task_id, path, marks),
        )
        report = attrs.evolve(report, removed=True, left=tuple(left))
    return attrs.evolve(report, duration_ms=ms_since(start))


# --- whether it may go ----------------------------------------------------------------------------


def _insist_on_finished(sagas: Sagas, task_id: str, document: Document) -> None:
    """
    See that a task is over.

    Raises:
        TaskRunning: An agent of it is alive, or not given back yet, or nobody can tell.
    """
    agents = {record.get("id"): record for record in document["agents"]}
    alive = {str(name) for name, record in agents.items() if is_active(record.get("status"))}
    alive |= {
        saga_id for saga_id in sagas.journals.ids() if _is_of(sagas, saga_id, task_id, agents)
    }
    if alive:
        raise TaskRunning(
            f"task {task_id!r} is not over: {', '.join(sorted(alive))}",
            hint=f"orchestrator-core ps --task {task_id}; then kill, or recover, each",
        )


def _is_of(sagas: Sagas, saga_id: str, task_id: str, agents: Document) -> bool:
    """Tell whether an open saga may be one of the task's."""
    try:
        return saga_id in agents or sagas.history(saga_id).labels.get("task_id") == task_id
    except SagaNotFound:
        return False
    except OrchestratorError:
        return True  # Whose it is cannot be told: it is left alone.


def _insist_on_the_same(
    sagas: Sagas, task_id: str, path: Path, marks: dict[str, FileStamp]
) -> None:
    """See that what is about to be removed is what was packed; it has another name by now."""
    document = Registry(path / "AGENT_REGISTRY.json", schema=TASK).read_or_none()
    if document is None:
        raise StorageError(f"the registry of task {task_id!r} cannot be read any more")
    _insist_on_finished(sagas, task_id, document)
    if stamp_tree(path) != marks:
        raise StorageError(
            f"task {task_id!r} has changed while it was exported",
            hint="it was not removed, and the file lacks the change; export it again",
        )


# --- the file -------------------------------------------------------------------------------------


def _checked(target: str | os.PathLike[str], task: Path) -> Path:
    """
    Return where the file is to be.

    Raises:
        InvalidInput: Something is there, or it would be inside of what it is to hold.
        StorageError: There is no such directory.
    """
    given = Path(target)
    if given.name in ("", ".."):
        raise InvalidInput(f"{os.fspath(target)!r} names no file")
    if not given.parent.is_dir():
        raise StorageError(f"there is no directory {given.parent}", hint="make it first")
    with storage_errors("use", given.parent):
        place = given.parent.resolve(strict=True) / given.name
    if place.is_relative_to(task.resolve()):
        raise InvalidInput(f"{place} is inside of the task", hint="choose a place outside of it")
    _clear_leftovers(place)
    if os.path.lexists(place):
        raise _is_there(place)
    return place


def _is_there(place: Path) -> InvalidInput:
    return InvalidInput(
        f"{place} is there already, and is not replaced", hint="choose another name, or remove it"
    )


def _pack(fd: int, fill: Any, place: Path) -> Packing:  # noqa: ANN401 - see pack
    """Write the file, and read it back."""
    compressed = place.name.endswith((".gz", ".tgz"))
    with storage_errors("write", place):
        packed = pack(fd, fill, compressed=compressed)
        try:
            same = read_back(fd) == packed.members
        except tarfile.TarError as error:
            raise StorageError(f"{place} cannot be read back: {error}") from error
    if not same:
        raise StorageError(f"{place} was not read back as it was written", hint="is the disk well?")
    return packed


@contextlib.contextmanager
def _new_file(place: Path) -> Iterator[int]:
    """
    Hold a file that gets the name *place* at the end of the block, durably; none if that raises.

    It is locked meanwhile, so that what a killed one has left can be told from it.
    """
    temporary = f"{place.parent}/.{place.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    with storage_errors("create", temporary):
        fd = durable.open_private(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        locks.try_lock(fd)
        with storage_errors("write", place):
            os.fchmod(fd, 0o600)
        yield fd
        with storage_errors("name", place, allow=(FileExistsError,)):
            os.link(temporary, place)
        durable.fsync_directory(place.parent)
    except FileExistsError:
        raise _is_there(place) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - `os` calls are where the tests break in
        os.close(fd)


def _clear_leftovers(place: Path) -> None:
    """Remove what killed exports to the same name have left."""
    prefix = f".{place.name}."
    with storage_errors("list", place.parent):
        names = os.listdir(place.parent)  # noqa: PTH208 - names are enough
    for name in (name for name in names if name.startswith(prefix) and name.endswith(".tmp")):
        left = place.with_name(name)
        with contextlib.suppress(OSError, StorageError):
            fd = durable.open_private(left, os.O_RDONLY)
            try:
                if locks.try_lock(fd):
                    left.unlink()
            finally:
                os.close(fd)
