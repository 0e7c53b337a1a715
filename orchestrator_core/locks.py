"""
Kernel locks, waited for in the kernel, with a deadline.

A lock here is an ``flock``: it belongs to the open file, ends with the process
that holds it, and needs no cleaning up. Two kinds are built on it:

- :func:`try_lock` and :func:`lock_within` lock a descriptor that the caller
  holds. A saga's journal is locked so: the file itself, which is only ever
  appended to.
- :func:`locked` guards a document that is *replaced*. It locks a sibling,
  because a rename gives the document a new inode, and a lock on the old one
  would guard nothing. Sibling locks are leaves: a thread holds at most one.

Nothing polls. Who must wait does so in a thread of its own that blocks in the
kernel, while the caller waits for the thread, so that its patience can end.

A process forked while a lock is held holds it too, until it ends or starts
another program; :func:`locked` is let go for both by the one who took it.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import attrs

from orchestrator_core import _clock, _files
from orchestrator_core.exceptions import LockTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# --- on a descriptor ------------------------------------------------------------------------


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file, or tell at once that another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(fd: int, timeout_s: float) -> bool:
    """
    Take the exclusive lock of an open file; wait for it up to *timeout_s*.

    If it returns False, or raises, close *fd*: the wait may still be under way,
    and the lock, should it come, is let go at once. To try again, open anew.

    Raises:
        OSError: The kernel refused: no more descriptors, or no such locks there.
    """
    if try_lock(fd):
        return True
    return timeout_s > 0 and _Wait(fd).within(timeout_s)


def unlock(fd: int) -> None:
    """Let the lock of an open file go, also for processes forked meanwhile."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# --- on a sibling of a document ---------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, what: str) -> Iterator[bool]:
    """
    Hold the lock of the document at *path*: of its sibling ``<name>.lock``.

    The lock file is made 0600 when first needed and never removed. Yields
    whether the last holder did not get to its end, so that something of its
    may lie about. *what* names the document in errors.

    Raises:
        LockTimeout: Another held it for all of *timeout_s*; the message names it.
        FileNotFoundError: The document's directory does not exist.
        StorageError: The lock file cannot be used.
    """
    sibling = f"{path}.lock"
    owner = os.getpid()
    with _leaf(sibling):
        fd = _open_locked(sibling, timeout_s=timeout_s, what=what)
        try:
            yield _sign(fd)
            _sign_off(fd)
        finally:
            if os.getpid() == owner:  # not a child that was forked inside
                unlock(fd)
            os.close(fd)


def _open_locked(sibling: str, *, timeout_s: float, what: str) -> int:
    begun = time.monotonic()
    while True:
        fd = _files.open_private(sibling, os.O_RDWR | os.O_CREAT)
        try:
            with _files.refusals("lock", sibling):
                got = lock_within(fd, begun + timeout_s - time.monotonic())
            if not got:
                _report(fd, sibling, what=what, waited_s=time.monotonic() - begun)
            with _files.refusals("look at", sibling):
                if _is_still_there(fd, sibling):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_still_there(fd: int, path: str) -> bool:
    """Tell whether others would open the same file: someone may have removed it by hand."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


_held = threading.local()


@contextlib.contextmanager
def _leaf(sibling: str) -> Iterator[None]:
    """See to it that a thread holds no two sibling locks: so no two can wait for each other."""
    other: str | None = getattr(_held, "sibling", None)
    if other is not None:
        raise AssertionError(f"{sibling} was to be locked by a thread that holds {other}")
    _held.sibling = sibling
    try:
        yield
    finally:
        _held.sibling = None


# --- waiting ----------------------------------------------------------------------------------


class _Wait:
    """One wait for a lock, by a thread that blocks in the kernel."""

    def __init__(self, fd: int) -> None:
        # A descriptor of its own for the same open file: the number *fd* may
        # mean another file by the time the kernel answers.
        self._fd = os.dup(fd)
        self._ended = threading.Lock()  # released at the end: the cheapest of events
        self._ended.acquire()
        self._verdict = threading.Lock()
        self._given_up = False
        self._error: BaseException | None = None
        # Not threading.Thread, which costs three times as much, in the middle of a crowd.
        _thread.start_new_thread(self._block, ())

    def within(self, timeout_s: float) -> bool:
        try:
            came = self._ended.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))
        except BaseException:
            self._give_up()
            raise
        if not came and self._give_up():
            return False
        if self._error is not None:
            raise OSError(f"cannot lock: {self._error}") from self._error
        return True

    def _give_up(self) -> bool:
        """Tell the thread to let go of what it gets; False if it has got it just now."""
        with self._verdict:
            self._given_up = self._ended.locked()
            return self._given_up

    def _block(self) -> None:
        try:
            # Imported by those who must wait: it costs 60 ms, a free lock 2 µs.
            import portalocker  # noqa: PLC0415

            portalocker.lock(self._fd, portalocker.LockFlags.EXCLUSIVE)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self._error = error
        with self._verdict:
            if self._given_up and self._error is None:
                unlock(self._fd)
            self._ended.release()
        os.close(self._fd)


# --- who holds it -------------------------------------------------------------------------------


@attrs.frozen
class Holder:
    """Who wrote itself into a lock file, and may be holding it."""

    pid: int
    since: str
    name: str | None  #: The name of the living process; None if there is none.

    def __str__(self) -> str:
        if self.name is None:
            return f"a process forked by pid {self.pid}, which is gone"
        return f"pid {self.pid} ({self.name}), since {self.since}"


_NOBODY = b"-"  #: Written over the start of a signature whose holder got to its end.


def _sign(fd: int) -> bool:
    """Write into the lock file who holds it; tell whether the last one never signed off."""
    # A full disk does not matter: a lock file without a signature reads as one
    # whose holder never signed off.
    with contextlib.suppress(OSError):
        interrupted = os.pread(fd, 1, 0) != _NOBODY
        os.pwrite(fd, f"{os.getpid():<10} {_clock.timestamp()}\n".encode(), 0)
        return interrupted
    return True


def _sign_off(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.pwrite(fd, _NOBODY, 0)


def _parse(signature: bytes) -> Holder | None:
    pid, _, since = signature.decode("ascii", "replace").strip().partition(" ")
    if not pid.isdecimal():
        return None
    return Holder(int(pid), since.strip(), _name_of(int(pid)))


def _report(fd: int, sibling: str, *, what: str, waited_s: float) -> NoReturn:
    holder = _parse(os.pread(fd, 100, 0)) or "an unknown process"
    raise LockTimeout(f"{what}: {sibling} is held by {holder}; waited {waited_s:.1f} s")


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
