"""
The owner of a lock file, written into the file for people and for error messages.

The lock itself is the kernel's. An owner writes its pid when it acquires the lock, and clears
it when its work is complete. If the pid is still there at the next acquisition, the previous
owner died, and its temporary files may still exist.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from orchestrator_core.exceptions import LockTimeout, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp


class LockRequest(NamedTuple):
    """The lock that a caller wants, as an error of its wait needs it."""

    sibling: str
    what: str  #: The name of what it guards.
    wait_target: str = ""  #: The lock file that this lock's owner waits for; empty: none.


class LockOwner(NamedTuple):
    """The process whose pid a lock file names; it may still own the lock."""

    pid: int
    since: str  #: Empty if the owner wrote no time.
    name: str | None  #: The name of the living process; None if it has ended.

    def __str__(self) -> str:
        if self.name is None:
            return f"a process forked by pid {self.pid}, which is gone"
        return f"pid {self.pid} ({self.name}){self.since and ', since '}{self.since}"


_RELEASED = b"-"  #: Written over the first byte of the pid when the owner's work is complete.


def write_owner(fd: int) -> bool:
    """Write this process into the lock file; return whether the previous owner died."""
    # A full disk changes nothing: a lock file without an owner reads as one whose owner died.
    try:
        previous_owner_died = os.pread(fd, 1, 0) != _RELEASED
        os.pwrite(fd, f"{os.getpid():<10} {timestamp()}\n".encode(), 0)
    except OSError:
        return True
    return previous_owner_died


def clear_owner(fd: int) -> None:
    """Write into the lock file that it has no owner. A failed write is ignored."""
    with contextlib.suppress(OSError):
        os.pwrite(fd, _RELEASED, 0)


def recorded_owner(path: Path) -> LockOwner | None:
    """
    Return the owner that a lock file names: it owns the lock now, or died with it.

    Raises:
        FileNotFoundError, StorageError: See :func:`orchestrator_core.system.durable.read`.
    """
    line = durable.read(path).split(b"\n")[0].decode("ascii", "replace")
    pid, _, since = line.strip().partition(" ")
    if not pid.isdecimal():
        return None
    return LockOwner(int(pid), since.strip(), _process_name(int(pid)))


def kernel_owner_pid(path: Path) -> int | None:
    """
    Return the pid of the owner of a file's kernel lock, from ``/proc/locks``.

    None: the lock is free, or the system does not list it, as on btrfs, whose files have
    another device there. A pid of 0 or less stands for an owner without a process, or in
    another pid namespace.

    Raises:
        OSError: There is no such file.
    """
    status = os.stat(path)  # noqa: PTH116 - one call
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        listed = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in listed.splitlines():
        fields = line.split()
        if "->" not in fields and file in fields:
            return int(fields[4])
    return None


def raise_lock_timeout(request: LockRequest, *, waited_s: float) -> NoReturn:
    """Raise the error of a wait without success; it names the owner of the lock."""
    path = Path(request.wait_target or request.sibling)
    try:
        owner = _live_owner(path)
    except (OSError, StorageError):
        owner = None
    held = f"{request.what}: {path} is held by {owner or 'an unknown process'}"
    raise LockTimeout(f"{held}; waited {waited_s:.1f} s")


def _live_owner(path: Path) -> LockOwner | None:
    """Return the living owner of a lock; a dead one only if no other is known."""
    recorded = recorded_owner(path)
    if recorded is not None and recorded.name is not None:
        return recorded
    # An owner that holds the lock for a short time only has not written its pid.
    pid = kernel_owner_pid(path) or 0
    name = _process_name(pid) if pid > 0 else None
    return recorded if name is None else LockOwner(pid, "", name)


def _process_name(pid: int) -> str | None:
    """Return the name of a living process; "alive" where there is no ``/proc``."""
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
