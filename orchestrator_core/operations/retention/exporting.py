"""
An export: one complete task in one tar file, which can then replace the task.

- The tar file gets its name when it is complete, durable and read back. An existing file is
  never replaced.
- The task is removed only after that, and only if it is still what was packed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.deployment import tasks
from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.operations.retention import ExportReport
from orchestrator_core.operations.retention.remove_task import (
    check_finished,
    check_unlisted,
    finish_removals,
    journals_of,
    remove_task,
)
from orchestrator_core.operations.retention.safe_dir import DIRECTORY, FileState
from orchestrator_core.operations.retention.tarball import read_back, stamp_tree, write_tarball
from orchestrator_core.system import durable, locks
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Sagas


def export(
    context: RootContext,
    sagas: Sagas,
    task_id: str,
    target: str | os.PathLike[str],
    *,
    remove: bool = False,
) -> ExportReport:
    """Implement :meth:`Orchestrator.export_task`."""
    start = time.monotonic()
    root, task = context.layout.root, context.layout.task(task_id)
    tasks.clean_temp_dirs(root)
    finish_removals(context, sagas)
    document = context.task_registry(task_id).read()
    check_finished(sagas, task_id, document)
    if remove:
        check_unlisted(context, sagas, task_id, document)
    path = _check_target(target, task)
    states = stamp_tree(task)
    journals = journals_of(sagas, task_id)
    with _new_file(path) as fd, storage_errors("write", path):
        with write_tarball(fd, compressed=path.name.endswith((".gz", ".tgz"))) as tarball:
            tarball.add_tree(task, task_id, states)
            for journal in map(sagas.journals.closed_file, journals):
                state = FileState.from_status(os.lstat(journal))
                tarball.add(journal, str(journal.relative_to(root)), state)
        try:
            is_same = read_back(fd) == tarball.members
        except tarfile.TarError as error:
            raise StorageError(f"{path} cannot be read back: {error}") from error
        if not is_same:
            raise StorageError(f"{path} was not read back as it was written", hint="check the disk")
        size = os.fstat(fd).st_size
    left = remove_task(context, sagas, task_id, states) if remove else []
    return ExportReport(
        task_id=task_id,
        target=str(path),
        files=len(tarball.members),
        bytes=sum(member.size for member in tarball.members),
        size=size,
        journals=tuple(journals),
        skipped=tuple(tarball.skipped),
        removed=remove,
        left=tuple(left),
        duration_ms=ms_since(start),
    )


def _check_target(target: str | os.PathLike[str], task: Path) -> Path:
    """
    Return the absolute path of the new file.

    Raises:
        InvalidInput: The path exists, or is inside the task.
        StorageError: The directory does not exist.
    """
    given = Path(target)
    if given.name in ("", ".."):
        raise InvalidInput(f"{os.fspath(target)!r} names no file")
    with storage_errors("use", given.parent):
        if not given.parent.is_dir():
            raise StorageError(f"there is no directory {given.parent}", hint="create it first")
        path = given.parent.resolve(strict=True) / given.name
    if path.is_relative_to(task.resolve()):
        raise InvalidInput(f"{path} is inside the task", hint="choose a path outside of it")
    _remove_stale_temps(path)
    if os.path.lexists(path):
        raise _already_exists(path)
    return path


def _already_exists(path: Path) -> InvalidInput:
    hint = "choose another name, or remove it"
    return InvalidInput(f"{path} is there already, and is not replaced", hint=hint)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """
    Open a file that gets the name *path*, durably, when the block ends; none if the block raises.

    Until then the file has no name, so a killed export leaves nothing. Where the file system
    has no such files, it has a temporary name and is locked, which distinguishes it from a
    killed export's: the next export to the same path removes that.
    """
    with contextlib.ExitStack() as stack:
        fd, name = _unnamed_file(path.parent), ""
        if fd is None:
            name = f"{path.parent}/.{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
            with storage_errors("create", name):
                fd = durable.open_private(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            stack.callback(_unlink_quietly, name)
        stack.callback(os.close, fd)
        locks.try_lock(fd)
        with storage_errors("write", path):
            os.fchmod(fd, 0o600)
        yield fd
        try:
            with storage_errors("name", path, allow=(FileExistsError,)):
                _link(fd, name, path)
        except FileExistsError:
            raise _already_exists(path) from None
        durable.fsync_directory(path.parent)


def _unnamed_file(directory: Path) -> int | None:
    """Open a new file that has no name; None if the system has no such files there."""
    if sys.platform != "linux" or not os.path.isdir("/proc/self/fd"):  # noqa: PTH112 - one call
        return None
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _link(fd: int, name: str, path: Path) -> None:
    if name:
        os.link(name, path)
        return
    directory = os.open(path.parent, DIRECTORY)
    try:
        # With a directory, the call is linkat(2), which follows the link in /proc to the file.
        os.link(f"/proc/self/fd/{fd}", path.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _unlink_quietly(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)  # noqa: PTH108 - `os` calls are where the tests break in


def _remove_stale_temps(path: Path) -> None:
    """Remove the temporary files of killed exports to the same path."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError, StorageError):
            fd = durable.open_private(stale, os.O_RDONLY)
            try:
                if locks.try_lock(fd):
                    stale.unlink()
            finally:
                os.close(fd)
