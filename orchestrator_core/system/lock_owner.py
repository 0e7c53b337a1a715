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
from orchestrator_core.system import clock, durable


class LockRequest(NamedTuple):
    """The lock that is being taken, for whoever waits for it in vain."""

    sibling: str
    what: str  #: What it guards, in words.
    wait_target: str = (
        ""  #: For what whoever has it waits: who has that is told of. Empty: nothing.
    )
    shared: bool = False  #: With others, who want it shared too.


class LockOwner(NamedTuple):
    """Who wrote itself into a lock file, and may be holding it."""

    pid: int
    since: str  #: Empty, if it wrote nothing.
    name: str | None  #: The name of the living process; None if there is none.

    def __str__(self) -> str:
        if self.name is None:
            return f"a process forked by pid {self.pid}, which is gone"
        return f"pid {self.pid} ({self.name}){self.since and ', since '}{self.since}"


_RELEASED = b"-"  #: Written over the start of a signature whose holder got to its end.


def write_owner(fd: int) -> bool:
    """Write into the lock file who holds it; tell whether the last one never signed off."""
    # A full disk does not matter: a lock file without a signature reads as one
    # whose holder never signed off.
    try:
        interrupted = os.pread(fd, 1, 0) != _RELEASED
        os.pwrite(fd, f"{os.getpid():<10} {clock.timestamp()}\n".encode(), 0)
    except OSError:
        return True
    return interrupted


def clear_owner(fd: int) -> None:
    """Write into the lock file that nobody holds it. A write that fails is of no matter."""
    with contextlib.suppress(OSError):
        os.pwrite(fd, _RELEASED, 0)


def recorded_owner(path: Path) -> LockOwner | None:
    """
    Return who wrote itself into a lock file and never signed off: it holds it, or died with it.

    Raises:
        FileNotFoundError, StorageError: See :func:`orchestrator_core.system.durable.read`.
    """
    return _parse(durable.read(path))


def kernel_owner_pid(path: Path) -> int | None:
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


def _parse(signature: bytes) -> LockOwner | None:
    pid, _, since = signature.split(b"\n")[0].decode("ascii", "replace").strip().partition(" ")
    if not pid.isdecimal():
        return None
    return LockOwner(int(pid), since.strip(), _name_of(int(pid)))


def raise_lock_timeout(request: LockRequest, *, waited_s: float) -> NoReturn:
    """
    Raise the error of a wait in vain: it names whoever wrote itself into the lock file.

    Of one that is held for a moment, and not signed, the kernel knows who has it.
    """
    path = Path(request.wait_target or request.sibling)
    try:
        holder = _live_owner(path)
    except (OSError, StorageError):
        holder = None
    told = f"{request.what}: {path} is held by {holder or 'an unknown process'}"
    raise LockTimeout(f"{told}; waited {waited_s:.1f} s")


def _live_owner(path: Path) -> LockOwner | None:
    """Return who holds a lock; somebody dead only if nobody else is known to."""
    signed = recorded_owner(path)
    if signed is not None and signed.name is not None:
        return signed
    pid = kernel_owner_pid(path) or 0
    name = _name_of(pid) if pid > 0 else None
    return signed if name is None else LockOwner(pid, "", name)


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
