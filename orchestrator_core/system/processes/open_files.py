"""
The processes that have a given file open.

A file is known by its device and inode: a moved file is the same file, and a new file under
an old name is not. The files of a process that the system hides (another user's) are not
found. Without ``/proc`` the system lists only names of open files, not whether the process
writes to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs
from orchestrator_core.system.processes.identity import identity_of
from orchestrator_core.system.processes.protocol import FileId, OpenFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_FLAGS = b"flags:\t"


def find_open_files(files: Collection[FileId]) -> tuple[OpenFile, ...]:
    """
    Return the open descriptors of *files* in all processes.

    Raises:
        CouldNotAsk: The system does not list its processes or their descriptors.
    """
    if not files:
        return ()
    found = _by_proc(set(files)) if sys.platform == "linux" else _by_psutil(set(files))
    return tuple(found)


def has_open(pid: int, path: str) -> bool:
    """Return whether a process has the file or directory *path* open; False without ``/proc``."""
    file = _file_id(path)
    descriptors = _descriptors(pid) if sys.platform == "linux" else ()
    return any(_file_id(f"/proc/{pid}/fd/{number}") == file for number in descriptors)


def open_names(pid: int) -> list[str]:
    """
    Return the names of what a process has open; empty without ``/proc``, or if it is hidden.

    The name of a removed file ends in `` (deleted)``.
    """
    names = []
    for number in _descriptors(pid) if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # It is closed by now.
            names.append(os.readlink(f"/proc/{pid}/fd/{number}"))  # noqa: PTH115 - a string
    return names


def _by_proc(files: set[FileId]) -> Iterator[OpenFile]:
    pids = procfs.pids()
    if not pids:
        raise CouldNotAsk("/proc lists no process")
    for pid in pids:
        for number in _descriptors(pid):
            file = _file_id(f"/proc/{pid}/fd/{number}")
            if file in files and (found := _open_file(pid, number, file)) is not None:
                yield found


def _file_id(path: str) -> FileId | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - thousands of them
    except OSError:
        return None  # It is closed by now.
    return FileId(status.st_dev, status.st_ino)


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names are enough
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise CouldNotAsk(f"cannot look into process {pid}: {error.strerror}") from error
        return []  # It has ended meanwhile, or the system hides it.


def _open_file(pid: int, number: str, file: FileId) -> OpenFile | None:
    line = list(_ancestors(pid))
    if not line:
        return None
    process, *ancestors = [identity_of(stat.pid, stat.started) for stat in line]
    return OpenFile(
        process=process,
        name=line[0].comm,
        file=file,
        writes=_is_writable(procfs.read(f"/proc/{pid}/fdinfo/{number}")),
        is_input=number == "0",
        ancestors=tuple(ancestors),
        sid=line[0].sid,
    )


def _ancestors(pid: int) -> Iterator[procfs.Stat]:
    """Return the process *pid* and its ancestors below init."""
    while pid > 1 and (stat := procfs.stat(pid)) is not None and not stat.is_dead:
        yield stat
        pid = stat.ppid


def _is_writable(fdinfo: bytes) -> bool:
    flags = next((line for line in fdinfo.splitlines() if line.startswith(_FLAGS)), b"")
    return bool(flags) and int(flags[len(_FLAGS) :], 8) & os.O_ACCMODE != os.O_RDONLY


def _by_psutil(files: set[FileId]) -> Iterator[OpenFile]:
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    for pid, started, name, path in psutil_table.open_files():
        file = _file_id(path)
        if file in files:
            yield OpenFile(
                process=identity_of(pid, started),
                name=name,
                file=file,
                writes=False,
                is_input=False,
                ancestors=(),
                sid=os.getsid(pid),
            )
