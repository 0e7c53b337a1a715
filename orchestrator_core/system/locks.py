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
the caller waits for the thread, so that its patience can end. :func:`in_turn`
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

from orchestrator_core.system import durable as _files
from orchestrator_core.system import lock_owner as _holders
from orchestrator_core.system import threads as _workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Take = Callable[[int, "_holders.Wanted"], None]
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


def try_share(fd: int) -> bool:
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

    def wait(take: Take) -> None:
        try:
            take(twin, _holders.Wanted("", ""))
        finally:
            os.close(twin)

    try:
        turn = Turn(wait)
    except RuntimeError:  # No more threads.
        os.close(twin)
        raise
    try:
        turn.within(timeout_s)
    except _GivenUp:
        return False
    return True


def unlock(fd: int) -> None:
    """Let the lock of an open file go, also for processes forked meanwhile."""
    fcntl.flock(fd, fcntl.LOCK_UN)


# --- on a sibling of a document ---------------------------------------------------------------


class Contended(Exception):
    """Somebody else has the lock at this moment."""


def at_once(fd: int, wanted: _holders.Wanted) -> None:
    """
    Take a lock that is free.

    Raises:
        Contended: It is not.
    """
    if not _try(fd, wanted):
        raise Contended


def _try(fd: int, wanted: _holders.Wanted) -> bool:
    return try_share(fd) if wanted.shared else try_lock(fd)


def within(timeout_s: float) -> Take:
    """Return how to take a lock, not shared, within *timeout_s*; else it raises LockTimeout."""
    begun = time.monotonic()

    def take(fd: int, wanted: _holders.Wanted) -> None:
        if not lock_within(fd, begun + timeout_s - time.monotonic()):
            _holders.report(wanted, waited_s=time.monotonic() - begun)

    return take


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
        lock.take(within(timeout_s))
        yield lock.interrupted
        lock.let_go()
    finally:
        lock.close()


class LockFile:
    """
    A lock of the document at *path*: its sibling ``<path>.<name>``.

    Opened when first taken; then it can be taken and let go as often as needed,
    by one thread. Who is done with it closes it.
    """

    def __init__(
        self, path: Path | str, *, what: str, name: str = "lock", behind: str = ""
    ) -> None:
        self.interrupted = False  #: The holder before us did not get to its end.
        self.fd = -1
        self._document = str(path)
        #: Who has it waits for the lock *behind* it: whoever has that is whom we wait for.
        self._wanted = _holders.Wanted(f"{path}.{name}", what, behind and f"{path}.{behind}")
        self._owner = os.getpid()
        self.is_held = False  #: By us.
        self._is_signed = False

    def take(self, take: Take, *, sign: bool = True, shared: bool = False) -> None:
        """
        Take the lock, as *take* gets it, and write us into the file; or hold it already.

        Who holds it for a moment only, and leaves nothing about, need not *sign*. If it is
        *shared*, others may hold it so too; then it cannot be signed.

        Raises:
            LockTimeout, Contended: What *take* raises when it does not get it.
            FileNotFoundError, StorageError: See :func:`locked`.
        """
        if self.is_held:
            return
        _enter_document(self._document)
        try:
            self._take(take, self._wanted._replace(shared=True) if shared else self._wanted)
            self.is_held = True
        except BaseException:
            _leave_document()
            raise
        self._is_signed = sign and not shared
        if self._is_signed:
            self.interrupted = _holders.sign(self.fd)

    def _take(self, take: Take, wanted: _holders.Wanted) -> None:
        sibling = wanted.sibling
        try:
            while True:
                take(self.opened(), wanted)
                if _is_still_there(self.fd, sibling):
                    return
                os.close(self.fd)
                self.fd = -1
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _files.refusal("lock", sibling, error) from error

    def pass_by(self, take: Take) -> None:
        """Wait until nobody has it for itself; hold it, with others, for no longer than that."""
        wanted = self._wanted._replace(shared=True)
        try:
            take(self.opened(), wanted)
            unlock(self.fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _files.refusal("lock", wanted.sibling, error) from error

    def opened(self) -> int:
        """Return the descriptor of the file, locked or not."""
        if self.fd < 0:
            self.fd = _files.open_private(self._wanted.sibling, os.O_RDWR | os.O_CREAT)
        return self.fd

    def let_go(self) -> None:
        """Let it go, having got to our end."""
        if self._is_signed:
            _holders.sign_off(self.fd)
        self._unlock()

    def drop(self) -> None:
        """Let it go, if it is held; the next holder is told that we broke off."""
        if self.is_held:
            self._unlock()

    def close(self) -> None:
        """Let it go as :meth:`drop` does, and close the file."""
        self.drop()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _unlock(self) -> None:
        self.is_held = False
        _leave_document()
        if os.getpid() == self._owner:  # not a child that was forked inside
            unlock(self.fd)


def _is_still_there(fd: int, path: str) -> bool:
    """Tell whether others would open the same file: someone may have removed it by hand."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


_held = threading.local()


def _enter_document(document: str) -> None:
    """See to it that a thread locks no two documents: so no two can wait for each other."""
    documents: list[str] = _held.__dict__.setdefault("documents", [])
    if documents and documents[-1] != document:
        raise AssertionError(f"{document} was to be locked by a thread that holds {documents[-1]}")
    documents.append(document)


def _leave_document() -> None:
    _held.documents.pop()


# --- waiting ----------------------------------------------------------------------------------


def in_turn(work: Callable[[Take], T], *, timeout_s: float) -> T:
    """
    Do *work*, which takes locks by what it is given, and return its result.

    It is called here; if a lock turns out to be another's, which *work* lets out
    as Contended, it is called again, in a thread that waits for each lock in the
    kernel and goes on when it has it. The time it works is not limited, only
    each of its waits. An interrupt ends a wait; work under way is done first.
    What it keeps open for the second call, it closes however that ends.

    Raises:
        LockTimeout: It waited for *timeout_s*; the message names the holder.
            What it was waiting for it will not do any more.
    """
    try:
        return work(at_once)
    except Contended:
        pass
    begun = time.monotonic()
    try:
        turn = Turn(work)
    except RuntimeError:  # No more threads.
        with contextlib.suppress(_GivenUp):
            work(_never)
        raise
    try:
        return turn.within(timeout_s)
    except _GivenUp:
        _holders.report(turn.wanted, waited_s=time.monotonic() - begun)


class _GivenUp(Exception):
    """The caller's patience ended during a wait."""


def _never(_fd: int, _wanted: _holders.Wanted) -> None:
    raise _GivenUp


class Turn(Generic[T]):
    """Work that waits for its turn in a thread, for a caller whose patience may end."""

    def __init__(self, work: Callable[[Take], T]) -> None:
        self._work = work
        self._ended = threading.Lock()  # released at the end: the cheapest of events
        self._ended.acquire()
        self._verdict = threading.Lock()
        self._waiting = True  #: It may be given up. It is not while it works.
        self._given_up = False
        self._result: Any = None
        self._error: BaseException | None = None
        self.wanted = _holders.Wanted("", "")  #: The lock of its last wait.
        _workers.start(self._run)

    def within(self, timeout_s: float) -> T:
        """
        Return what the work returns; raise what it raises.

        Raises:
            _GivenUp: It has waited for *timeout_s*, and will do no more.
        """
        if not self._await(timeout_s):
            raise _GivenUp
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def _await(self, timeout_s: float) -> bool:
        """Wait for the end; False if it was given up before."""
        try:
            while not self._ended.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
                if self._give_up():
                    return False
        except BaseException:
            if not self._give_up():
                self._ended.acquire()
            raise
        return True

    def _give_up(self) -> bool:
        """Let the thread do no more once it has the lock; False if it is at work just now."""
        with self._verdict:
            self._given_up = self._waiting and self._ended.locked()
            return self._given_up

    def _run(self) -> None:
        try:
            self._result = self._work(self._take)
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            self._error = error
        with self._verdict:
            self._ended.release()

    def _take(self, fd: int, wanted: _holders.Wanted) -> None:
        """Block until the lock is ours."""
        if _try(fd, wanted):
            self._go_on(fd)
            return
        with self._verdict:
            self._waiting, self.wanted = True, wanted
        # Imported by those who must wait: it costs 60 ms, a free lock 2 µs. Of its lockers the
        # one that is flock whatever a host may have set, which portalocker.lock goes by.
        from portalocker import LockException, LockFlags  # noqa: PLC0415
        from portalocker.portalocker import FlockLocker  # noqa: PLC0415

        try:
            FlockLocker().lock(fd, LockFlags.SHARED if wanted.shared else LockFlags.EXCLUSIVE)
        except LockException as error:
            raise OSError(f"cannot lock: {error}") from error
        self._go_on(fd)

    def _go_on(self, fd: int) -> None:
        with self._verdict:
            if self._given_up:
                unlock(fd)
                raise _GivenUp
            self._waiting = False
