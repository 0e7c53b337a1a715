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
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from orchestrator_core.system import durable, lock_owner
from orchestrator_core.system.lock_owner import LockRequest
from orchestrator_core.system.os_errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# --- on a descriptor ------------------------------------------------------------------------


def try_lock(fd: int) -> bool:
    """Acquire the exclusive lock of an open file; return False at once if it is taken."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_shared(fd: int) -> bool:
    """Acquire the shared lock of an open file; return False at once if it is taken exclusively."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
    if try_lock_shared(fd) if shared else try_lock(fd):
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
        target = f"{path}.{wait_target}" if wait_target else ""
        self._request = LockRequest(f"{path}.{name}", what, target)
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
            lock_owner.raise_lock_timeout(self._request, waited_s=time.monotonic() - start)

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
            self.previous_owner_died = lock_owner.write_owner(self.fd)
        return self.is_held

    def _lock_current_file(self, timeout_s: float, *, shared: bool) -> bool:
        """Lock the file that has the lock file's name now: somebody may remove it by hand."""
        try:
            while lock_within(self.fileno(), timeout_s, shared=shared):
                if same_file(self.fd, self._request.sibling):
                    return True
                os.close(self.fd)
                self.fd = -1
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("lock", self._request.sibling, error) from error
        return False

    def wait_until_free(self, timeout_s: float) -> None:
        """Wait until no exclusive owner has the lock; do not keep it."""
        self.acquire(timeout_s, shared=True)
        self._unlock()

    def fileno(self) -> int:
        """Return the descriptor of the file, and open the file if necessary."""
        if self.fd < 0:
            self.fd = durable.open_private(self._request.sibling, os.O_RDWR | os.O_CREAT)
        return self.fd

    def release(self) -> None:
        """Release the lock after complete work."""
        if self._is_signed:
            lock_owner.clear_owner(self.fd)
        self._unlock()

    def abandon(self) -> None:
        """Release the lock, if it is held. The next owner learns that the work was incomplete."""
        if self.is_held:
            self._unlock()

    def close(self) -> None:
        """Release the lock as :meth:`abandon` does, and close the file."""
        self.abandon()
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
