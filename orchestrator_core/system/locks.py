"""
Kernel locks, waited for in the kernel, with a deadline.

A lock here is an ``flock``: it belongs to the open file, ends with the process
that holds it, and needs no cleaning up. Two kinds are built on it:

- :func:`try_lock` and :func:`lock_within` lock a descriptor that the caller
  holds. A saga's journal is locked so: the file itself, which is only ever
  appended to.
- :func:`locked` guards a document that is *replaced*. It locks a sibling,
  because a rename gives the document a new inode, and a lock on the old one
  would guard nothing. These locks are leaves: a thread holds those of one
  document at most.

Nothing polls. Who must wait does so in a thread that blocks in the kernel, while
the caller waits for the thread, so that its patience can end. :func:`run_with_lock`
hands such a thread the whole work, so that who gets the lock goes on at once
and wakes nobody first: in a crowd that is what the time goes into.

A process forked while a lock is held holds it too, until it ends or starts
another program; :func:`locked` is let go for both by the one who took it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator_core.system import durable, lock_owner, threads
from orchestrator_core.system.os_errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Acquire = Callable[[int, "lock_owner.LockRequest"], None]
    """How to take the lock of an open file: it is ours when this returns."""

T = TypeVar("T")


# --- on a descriptor ------------------------------------------------------------------------


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file, or tell at once that another has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def try_lock_shared(fd: int) -> bool:
    """Take the shared lock of an open file; False at once if another has the exclusive one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
    if timeout_s <= 0:
        return False
    # A descriptor of its own for the same open file: the number *fd* may mean
    # another file by the time the kernel answers.
    twin = os.dup(fd)

    def wait(acquire: Acquire) -> None:
        try:
            acquire(twin, lock_owner.LockRequest("", ""))
        finally:
            os.close(twin)

    try:
        waiter = LockWaiter(wait)
    except RuntimeError:  # No more threads.
        os.close(twin)
        raise
    try:
        waiter.result(timeout_s)
    except _Abandoned:
        return False
    return True


def unlock(fd: int) -> None:
    """Let the lock of an open file go, also for processes forked meanwhile."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# --- on a sibling of a document ---------------------------------------------------------------


class WouldBlock(Exception):
    """Somebody else has the lock at this moment."""


def nonblocking(fd: int, request: lock_owner.LockRequest) -> None:
    """
    Take a lock that is free.

    Raises:
        WouldBlock: It is not.
    """
    if not _try_acquire(fd, request):
        raise WouldBlock


def _try_acquire(fd: int, request: lock_owner.LockRequest) -> bool:
    return try_lock_shared(fd) if request.shared else try_lock(fd)


def blocking(timeout_s: float) -> Acquire:
    """Return how to take a lock, not shared, within *timeout_s*; else it raises LockTimeout."""
    begun = time.monotonic()

    def acquire(fd: int, request: lock_owner.LockRequest) -> None:
        if not lock_within(fd, begun + timeout_s - time.monotonic()):
            lock_owner.raise_lock_timeout(request, waited_s=time.monotonic() - begun)

    return acquire


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
    lock = LockFile(path, what=what)
    try:
        lock.acquire(blocking(timeout_s))
        yield lock.previous_owner_died
        lock.release()
    finally:
        lock.close()


class LockFile:
    """
    A lock of the document at *path*: its sibling ``<path>.<name>``.

    Opened when first taken; then it can be taken and let go as often as needed,
    by one thread. Who is done with it closes it.
    """

    def __init__(
        self, path: Path | str, *, what: str, name: str = "lock", wait_target: str = ""
    ) -> None:
        self.previous_owner_died = False  #: The holder before us did not get to its end.
        self.fd = -1
        self._document = str(path)
        #: The holder of this lock waits for the lock *wait_target*; a timeout names its owner.
        self._request = lock_owner.LockRequest(
            f"{path}.{name}", what, wait_target and f"{path}.{wait_target}"
        )
        self._owner = os.getpid()
        self.is_held = False  #: By us.
        self._is_signed = False

    def acquire(self, acquire: Acquire, *, sign: bool = True, shared: bool = False) -> None:
        """
        Take the lock, as *acquire* gets it, and write us into the file; or hold it already.

        Who holds it for a moment only, and leaves nothing about, need not *sign*. If it is
        *shared*, others may hold it so too; then it cannot be signed.

        Raises:
            LockTimeout, WouldBlock: What *acquire* raises when it does not get it.
            FileNotFoundError, StorageError: See :func:`locked`.
        """
        if self.is_held:
            return
        _push_document(self._document)
        try:
            self._take(acquire, self._request._replace(shared=True) if shared else self._request)
            self.is_held = True
        except BaseException:
            _pop_document()
            raise
        self._is_signed = sign and not shared
        if self._is_signed:
            self.previous_owner_died = lock_owner.write_owner(self.fd)

    def _take(self, acquire: Acquire, request: lock_owner.LockRequest) -> None:
        sibling = request.sibling
        try:
            while True:
                acquire(self.fileno(), request)
                if _same_file(self.fd, sibling):
                    return
                os.close(self.fd)
                self.fd = -1
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("lock", sibling, error) from error

    def wait_until_free(self, acquire: Acquire) -> None:
        """Wait until nobody has it for itself; hold it, with others, for no longer than that."""
        request = self._request._replace(shared=True)
        try:
            acquire(self.fileno(), request)
            unlock(self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("lock", request.sibling, error) from error

    def fileno(self) -> int:
        """Return the descriptor of the file, locked or not."""
        if self.fd < 0:
            self.fd = durable.open_private(self._request.sibling, os.O_RDWR | os.O_CREAT)
        return self.fd

    def release(self) -> None:
        """Let it go, having got to our end."""
        if self._is_signed:
            lock_owner.clear_owner(self.fd)
        self._unlock()

    def abandon(self) -> None:
        """Let it go, if it is held; the next holder is told that we broke off."""
        if self.is_held:
            self._unlock()

    def close(self) -> None:
        """Let it go as :meth:`drop` does, and close the file."""
        self.abandon()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _unlock(self) -> None:
        self.is_held = False
        _pop_document()
        if os.getpid() == self._owner:  # not a child that was forked inside
            unlock(self.fd)


def _same_file(fd: int, path: str) -> bool:
    """Tell whether others would open the same file: someone may have removed it by hand."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


_held = threading.local()


def _push_document(document: str) -> None:
    """See to it that a thread locks no two documents: so no two can wait for each other."""
    documents: list[str] = _held.__dict__.setdefault("documents", [])
    if documents and documents[-1] != document:
        raise AssertionError(f"{document} was to be locked by a thread that holds {documents[-1]}")
    documents.append(document)


def _pop_document() -> None:
    _held.documents.pop()


# --- waiting ----------------------------------------------------------------------------------


def run_with_lock(work: Callable[[Acquire], T], *, timeout_s: float) -> T:
    """
    Do *work*, which takes locks by what it is given, and return its result.

    It is called here; if a lock turns out to be another's, which *work* lets out
    as WouldBlock, it is called again, in a thread that waits for each lock in the
    kernel and goes on when it has it. The time it works is not limited, only
    each of its waits. An interrupt ends a wait; work under way is done first.
    What it keeps open for the second call, it closes however that ends.

    Raises:
        LockTimeout: It waited for *timeout_s*; the message names the holder.
            What it was waiting for it will not do any more.
    """
    try:
        return work(nonblocking)
    except WouldBlock:
        pass
    begun = time.monotonic()
    try:
        waiter = LockWaiter(work)
    except RuntimeError:  # No more threads.
        with contextlib.suppress(_Abandoned):
            work(_always_abandon)
        raise
    try:
        return waiter.result(timeout_s)
    except _Abandoned:
        lock_owner.raise_lock_timeout(waiter.request, waited_s=time.monotonic() - begun)


class _Abandoned(Exception):
    """The caller's patience ended during a wait."""


def _always_abandon(_fd: int, _request: lock_owner.LockRequest) -> None:
    raise _Abandoned


class LockWaiter(Generic[T]):
    """Work that waits for its turn in a thread, for a caller whose patience may end."""

    def __init__(self, work: Callable[[Acquire], T]) -> None:
        self._work = work
        self._ended = threading.Lock()  # released at the end: the cheapest of events
        self._ended.acquire()
        self._state_lock = threading.Lock()
        self._waiting = True  #: It may be given up. It is not while it works.
        self._abandoned = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.request = lock_owner.LockRequest("", "")  #: The lock of its last wait.
        threads.run_in_thread(self._run)

    def result(self, timeout_s: float) -> T:
        """
        Return what the work returns; raise what it raises.

        Raises:
            _Abandoned: It has waited for *timeout_s*, and will do no more.
        """
        if not self._await(timeout_s):
            raise _Abandoned
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def _await(self, timeout_s: float) -> bool:
        """Wait for the end; False if it was given up before."""
        try:
            while not self._ended.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
                if self._abandon():
                    return False
        except BaseException:
            if not self._abandon():
                self._ended.acquire()
            raise
        return True

    def _abandon(self) -> bool:
        """Let the thread do no more once it has the lock; False if it is at work just now."""
        with self._state_lock:
            self._abandoned = self._waiting and self._ended.locked()
            return self._abandoned

    def _run(self) -> None:
        try:
            self._result = self._work(self._take)
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            self._error = error
        with self._state_lock:
            self._ended.release()

    def _take(self, fd: int, request: lock_owner.LockRequest) -> None:
        """Block until the lock is ours."""
        if _try_acquire(fd, request):
            self._acquired(fd)
            return
        with self._state_lock:
            self._waiting, self.request = True, request
        # Imported by those who must wait: it costs 60 ms, a free lock 2 µs. Of its lockers the
        # one that is flock whatever a host may have set, which portalocker.lock goes by.
        from portalocker import LockException, LockFlags  # noqa: PLC0415
        from portalocker.portalocker import FlockLocker  # noqa: PLC0415

        try:
            FlockLocker().lock(fd, LockFlags.SHARED if request.shared else LockFlags.EXCLUSIVE)
        except LockException as error:
            raise OSError(f"cannot lock: {error}") from error
        self._acquired(fd)

    def _acquired(self, fd: int) -> None:
        with self._state_lock:
            if self._abandoned:
                unlock(fd)
                raise _Abandoned
            self._waiting = False
