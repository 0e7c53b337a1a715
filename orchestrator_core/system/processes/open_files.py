"""
Who has which file open.

A file is known by its device and inode, so a name that was given to another
file since says nothing, and a file that was moved is still the same.

What we may not look into (another user's process) shows no files. Without
``/proc`` only the names of open files are to be had: who holds one is told
there, and not whether it writes.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes.protocol import FileId, Identity, OpenFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_FLAGS = b"flags:\t"


def find_open_files(files: Collection[FileId]) -> tuple[OpenFile, ...]:
    """Return every process that has one of *files* open, once for each of its descriptors."""
    if not files:
        return ()
    found = _by_proc(set(files)) if sys.platform == "linux" else _by_psutil(set(files))
    return tuple(found)


def _by_proc(files: set[FileId]) -> Iterator[OpenFile]:
    pids = proc.pids()
    if not pids:
        raise CouldNotAsk("/proc does not tell who there is")
    for pid in pids:
        for number in _descriptors(pid):
            try:
                status = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - thousands of them
            except OSError:
                continue  # It is closed by now.
            file = FileId(status.st_dev, status.st_ino)
            if file in files and (holder := _open_file(pid, number, file)) is not None:
                yield holder


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names are enough
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise CouldNotAsk(f"cannot look into process {pid}: {error.strerror}") from error
        return []  # It has ended meanwhile, or is not ours to look into.


def _open_file(pid: int, number: str, file: FileId) -> OpenFile | None:
    line = list(_ancestors(pid))
    if not line:
        return None
    who, boot = line[0], boot_id()
    return OpenFile(
        process=Identity(boot, who.pid, who.started),
        name=who.comm,
        file=file,
        writes=_writes(proc.read(f"/proc/{pid}/fdinfo/{number}")),
        is_input=number == "0",
        ancestors=tuple(Identity(boot, each.pid, each.started) for each in line[1:]),
        sid=who.sid,
    )


def _ancestors(pid: int) -> Iterator[proc.Stat]:
    while pid > 1 and (seen := proc.stat(pid)) is not None and not seen.is_dead:
        yield seen
        pid = seen.ppid


def _writes(told: bytes) -> bool:
    flags = next((line for line in told.splitlines() if line.startswith(_FLAGS)), b"")
    return bool(flags) and int(flags[len(_FLAGS) :], 8) & os.O_ACCMODE != os.O_RDONLY


def _by_psutil(files: set[FileId]) -> Iterator[OpenFile]:
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    for pid, started, name, path in psutil_table.open_files():
        try:
            status = os.stat(path)  # noqa: PTH116 - as above
        except OSError:
            continue
        file = FileId(status.st_dev, status.st_ino)
        if file in files:
            yield OpenFile(
                process=Identity(boot_id(), pid, started),
                name=name,
                file=file,
                writes=False,
                is_input=False,
                ancestors=(),
                sid=os.getsid(pid),
            )
