"""
Who holds a lock file: its holder writes itself into it, and signs off at its end.

For people and for messages: the lock itself is the kernel's. That the last
holder never signed off tells the next one that something of its may lie about.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from orchestrator_core.exceptions import LockTimeout, StorageError
from orchestrator_core.system import clock as _clock
from orchestrator_core.system import durable as _files


class Wanted(NamedTuple):
    """The lock that is being taken, for whoever waits for it in vain."""

    sibling: str
    what: str  #: What it guards, in words.
    behind: str = ""  #: For what whoever has it waits: who has that is told of. Empty: nothing.
    shared: bool = False  #: With others, who want it shared too.


class Holder(NamedTuple):
    """Who wrote itself into a lock file, and may be holding it."""

    pid: int
    since: str  #: Empty, if it wrote nothing.
    name: str | None  #: The name of the living process; None if there is none.

    def __str__(self) -> str:
        if self.name is None:
            return f"a process forked by pid {self.pid}, which is gone"
        return f"pid {self.pid} ({self.name}){self.since and ', since '}{self.since}"


_NOBODY = b"-"  #: Written over the start of a signature whose holder got to its end.


def sign(fd: int) -> bool:
    """Write into the lock file who holds it; tell whether the last one never signed off."""
    # A full disk does not matter: a lock file without a signature reads as one
    # whose holder never signed off.
    try:
        interrupted = os.pread(fd, 1, 0) != _NOBODY
        os.pwrite(fd, f"{os.getpid():<10} {_clock.timestamp()}\n".encode(), 0)
    except OSError:
        return True
    return interrupted


def sign_off(fd: int) -> None:
    """Write into the lock file that nobody holds it. A write that fails is of no matter."""
    with contextlib.suppress(OSError):
        os.pwrite(fd, _NOBODY, 0)


def last_holder(path: Path) -> Holder | None:
    """
    Return who wrote itself into a lock file and never signed off: it holds it, or died with it.

    Raises:
        FileNotFoundError, StorageError: See :func:`orchestrator_core.system.durable.read`.
    """
    return _parse(_files.read(path))


def who_has(path: Path) -> int | None:
    """
    Return the pid of who has the kernel's lock of a file; None if nobody has, or it is not told.

    It is not on btrfs, say, whose files have another device there. A pid that is not positive
    is nobody's: it stands for a lock of no process, or of one in another pid namespace.

    Raises:
        OSError: There is no such file.
    """
    wanted = os.stat(path)  # noqa: PTH116 - one call
    place = f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x}:{wanted.st_ino}"
    try:
        listed = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in listed.splitlines():
        fields = line.split()
        if "->" not in fields and place in fields:
            return int(fields[4])
    return None


def _parse(signature: bytes) -> Holder | None:
    pid, _, since = signature.split(b"\n")[0].decode("ascii", "replace").strip().partition(" ")
    if not pid.isdecimal():
        return None
    return Holder(int(pid), since.strip(), _name_of(int(pid)))


def report(wanted: Wanted, *, waited_s: float) -> NoReturn:
    """
    Raise the error of a wait in vain: it names whoever wrote itself into the lock file.

    Of one that is held for a moment, and not signed, the kernel knows who has it.
    """
    path = Path(wanted.behind or wanted.sibling)
    try:
        holder = _living_holder(path)
    except (OSError, StorageError):
        holder = None
    told = f"{wanted.what}: {path} is held by {holder or 'an unknown process'}"
    raise LockTimeout(f"{told}; waited {waited_s:.1f} s")


def _living_holder(path: Path) -> Holder | None:
    """Return who holds a lock; somebody dead only if nobody else is known to."""
    signed = last_holder(path)
    if signed is not None and signed.name is not None:
        return signed
    pid = who_has(path) or 0
    name = _name_of(pid) if pid > 0 else None
    return signed if name is None else Holder(pid, "", name)


def _name_of(pid: int) -> str | None:
    """Return the name of a living process, or where there is no /proc, that it lives."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return None
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no pathlib below here
            return file.read().strip()
    except OSError:
        return "alive"
