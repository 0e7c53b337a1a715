"""
Kernel locks (``flock``) with a deadline. A blocked caller waits in the kernel, without polling.

An flock belongs to the open file and ends with the process that holds it. So no lock
needs cleaning up. Two kinds of lock are built on it:

- :func:`try_lock` and :func:`lock_within` lock a descriptor of the caller. A saga's
  journal is locked so: it is only ever appended to.
- :class:`LockFile` and :func:`locked` guard a document that is *replaced*. They lock a
  sibling file: a rename gives the document a new inode, and a lock on the old inode would
  guard nothing. These locks are leaves: a thread locks at most one document at a time.

A process forked while a lock is held shares the lock until it ends or executes another
program. The process that acquired a :func:`locked` document releases it for both.

An owner writes its pid into the lock file, for people and for error messages, and clears it
when its work is complete. If the pid is still there at the next acquisition, the previous
owner died, and its temporary files may still exist. An owner that gives up because of an error
writes that instead: it did not die, and its files may exist all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.exceptions import LockTimeout, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator


# --- on a descriptor ------------------------------------------------------------------------


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Acquire the lock of an open file; return False at once if another owner prevents that."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(fd: int, timeout_s: float, *, shared: bool = False) -> bool:
    """
    Acquire the lock of an open file; return False after *timeout_s* without it.

    After False or an error, close *fd* and open the file anew for another try. The wait may
    still be under way; its lock is released as soon as the kernel grants it.

    Raises:
        OSError: The kernel refused: no descriptors are left, or no such locks exist there.
        RuntimeError: The system has no more threads.
    """
    if try_lock(fd, shared=shared):
        return True
    if timeout_s <= 0:
        return False
    return _LockWait(fd, shared=shared).result(timeout_s)


def unlock(fd: int) -> None:
    """Release the lock of an open file, also for processes forked since it was acquired."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# --- on a sibling of a document ---------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, what: str) -> Iterator[bool]:
    """
    Hold the lock of the document at *path* for a ``with`` block.

    The lock file is the document's sibling ``<name>.lock``. It is created with mode 0600
    when first needed and never removed. The block gets whether the previous owner died while
    it held the lock; its temporary files may then still exist. *what* names the document in
    errors.

    Raises:
        LockTimeout: Another process held the lock for all of *timeout_s*; the error names it.
        FileNotFoundError: The document's directory does not exist.
        StorageError: The lock file cannot be used.
    """
    lock = LockFile(path, what=what)
    try:
        lock.acquire(timeout_s)
        yield lock.previous_owner_died
        lock.release()
    finally:
        lock.close()


class LockFile:
    """
    A lock of the document at *path*: its sibling ``<path>.<name>``.

    The first acquisition opens the file. One thread may then acquire and release the lock
    any number of times, and closes the file at the end.
    """

    def __init__(
        self, path: Path | str, *, what: str, name: str = "lock", wait_target: str = ""
    ) -> None:
        self.previous_owner_died = False  #: The previous owner never released the lock.
        self.fd = -1
        self.is_held = False  #: By this object.
        self._document = str(path)
        # The owner of this lock waits for the lock *wait_target*; a timeout names the latter's.
        self._awaited = Path(f"{path}.{wait_target or name}")
        self._sibling, self._what = f"{path}.{name}", what
        self._pid = os.getpid()
        self._is_signed = False

    def acquire(self, timeout_s: float, *, sign: bool = True, shared: bool = False) -> None:
        """
        Acquire the lock, and write this process into the file as its owner.

        Nothing happens if the lock is held already. A short holder that leaves nothing behind
        need not *sign*. A *shared* lock may have several holders, and is never signed.

        Raises:
            LockTimeout: Another process held the lock for all of *timeout_s*.
            FileNotFoundError, StorageError: See :func:`locked`.
        """
        start = time.monotonic()
        if not self._lock(timeout_s, sign=sign and not shared, shared=shared):
            waited_s = time.monotonic() - start
            try:
                owner = _live_owner(self._awaited)
            except (OSError, StorageError):
                owner = None
            held = f"{self._what}: {self._awaited} is held by {owner or 'an unknown process'}"
            raise LockTimeout(f"{held}; waited {waited_s:.1f} s")

    def try_acquire(self, *, sign: bool = True) -> bool:
        """Acquire the lock as :meth:`acquire` does; return False at once if it is taken."""
        return self._lock(0.0, sign=sign, shared=False)

    def _lock(self, timeout_s: float, *, sign: bool, shared: bool) -> bool:
        if self.is_held:
            return True
        _push_document(self._document)
        try:
            self.is_held = self._lock_current_file(timeout_s, shared=shared)
        finally:
            if not self.is_held:
                _pop_document()
        self._is_signed = sign and self.is_held
        if self._is_signed:
            self.previous_owner_died = _write_owner(self.fd)
        return self.is_held

    def _lock_current_file(self, timeout_s: float, *, shared: bool) -> bool:
        """Lock the file that has the lock file's name now: somebody may remove it by hand."""
        with storage_errors("lock", self._sibling, allow=(FileNotFoundError,)):
            deadline = time.monotonic() + timeout_s
            while lock_within(self.fileno(), deadline - time.monotonic(), shared=shared):
                if same_file(self.fd, self._sibling):
                    return True
                os.close(self.fd)
                self.fd = -1
        return False

    def wait_until_free(self, timeout_s: float) -> None:
        """Wait until no exclusive owner has the lock; do not keep it."""
        self.acquire(timeout_s, shared=True)
        self._unlock()

    def fileno(self) -> int:
        """Return the descriptor of the file, and open the file if necessary."""
        if self.fd < 0:
            self.fd = durable.open_own(self._sibling, os.O_RDWR | os.O_CREAT)
        return self.fd

    def release(self) -> None:
        """Release the lock after complete work."""
        if self._is_signed:
            _clear_owner(self.fd)
        self._unlock()

    def abandon(self) -> None:
        """Release the lock, if it is held. The next owner learns that the work was incomplete."""
        if not self.is_held:
            return
        try:
            if self._is_signed and os.getpid() == self._pid:
                _clear_owner(self.fd, _ABANDONED)
        finally:
            self._unlock()

    def close(self) -> None:
        """Release the lock as :meth:`abandon` does, and close the file."""
        try:
            self.abandon()
        finally:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def _unlock(self) -> None:
        self.is_held = False
        _pop_document()
        if os.getpid() == self._pid:  # Not in a child that was forked meanwhile.
            unlock(self.fd)


def same_file(fd: int, path: str | Path) -> bool:
    """Return whether *path* still names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


_held = threading.local()


def _push_document(document: str) -> None:
    """Refuse to lock two documents in one thread, so that no two threads can deadlock."""
    documents: list[str] = _held.__dict__.setdefault("documents", [])
    if documents and documents[-1] != document:
        raise AssertionError(f"cannot lock {document}: this thread holds {documents[-1]}")
    documents.append(document)


def _pop_document() -> None:
    _held.documents.pop()


# --- the owner that a lock file names ------------------------------------------------------------


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
_ABANDONED = b"~"  #: The same, of work that a living owner has given up because of an error.


def _write_owner(fd: int) -> bool:
    """Write this process into the lock file; return whether the previous owner died."""
    # A full disk changes nothing: a lock file without an owner reads as one whose owner died.
    try:
        previous_owner_died = os.pread(fd, 1, 0) != _RELEASED
        os.pwrite(fd, f"{os.getpid():<10} {timestamp()}\n".encode(), 0)
    except OSError:
        return True
    return previous_owner_died


def _clear_owner(fd: int, mark: bytes = _RELEASED) -> None:
    """Write into the lock file that it has no owner. A failed write is ignored."""
    with contextlib.suppress(OSError):
        os.pwrite(fd, mark, 0)


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


# --- waiting ----------------------------------------------------------------------------------


class _LockWait:
    """A wait for the lock of an open file, in a thread, which the caller may abandon."""

    def __init__(self, fd: int, *, shared: bool) -> None:
        # A second descriptor of the same open file: the caller may close *fd*, and
        # its number may mean another file by the time the kernel grants the lock.
        self._fd = os.dup(fd)
        self._shared = shared
        self._ended = threading.Event()
        self._state_lock = threading.Lock()
        self._is_abandoned = False
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name="lock-wait", daemon=True).start()
        except RuntimeError:  # No more threads.
            os.close(self._fd)
            raise

    def result(self, timeout_s: float) -> bool:
        """Return True with the lock; False if it did not come within *timeout_s*."""
        try:
            if not self._ended.wait(min(timeout_s, threading.TIMEOUT_MAX)) and self._abandon():
                return False
        except BaseException:
            self._abandon()
            raise
        if self._error is not None:
            raise self._error
        return True

    def _abandon(self) -> bool:
        """Let the thread release the lock once it is granted; return False if it is granted."""
        with self._state_lock:
            self._is_abandoned = not self._ended.is_set()
            return self._is_abandoned

    def _run(self) -> None:
        try:
            _wait_for_lock(self._fd, shared=self._shared)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error
        with self._state_lock:
            if self._is_abandoned and self._error is None:
                unlock(self._fd)
            os.close(self._fd)
            self._ended.set()


def _wait_for_lock(fd: int, *, shared: bool) -> None:
    # The import takes 60 ms, and only a caller that must wait needs it. FlockLocker is flock
    # whatever a host application has set portalocker's default locker to.
    from portalocker import LockException, LockFlags  # noqa: PLC0415
    from portalocker.portalocker import FlockLocker  # noqa: PLC0415

    try:
        FlockLocker().lock(fd, LockFlags.SHARED if shared else LockFlags.EXCLUSIVE)
    except LockException as error:
        raise OSError(f"cannot lock: {error}") from error
