"""
The journal of one saga, as its owner appends to it.

- The owner holds a kernel lock on the file. The kernel releases the lock of a dead owner.
- The file only grows, and is renamed into ``closed/`` at the end, so the lock protects the
  journal for the saga's whole life.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import JournalDamaged, SagaBusy, SagaNotFound, StorageError
from orchestrator_core.saga.encoding import encode, parse
from orchestrator_core.system import locks
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.durable import fsync, open_private, read_all, write_all
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.saga.encoding import Entry, ParsedJournal

_READER_TIMEOUT_S = 1.0  #: Reading a journal under the shared lock takes a few milliseconds.


@renamed_attributes(append_or_owe="append_or_queue", is_ours="is_owned")
class Journal:
    """
    A journal that this process owns, open for appending.

    No other process can append to it until :meth:`close`, or the death of this process. A
    process forked from this one does not own it.
    """

    def __init__(self, path: Path, fd: int, reading: ParsedJournal) -> None:
        self.path = path
        self._fd = fd
        self._end = reading.length
        self._tail_dirty = reading.torn  #: Whether bytes may follow the end.
        self._prefix = b"\n" if reading.missing_newline else b""
        self._queued: list[Entry] = []
        self._owner = os.getpid()
        self._closed = False

    def append(self, *entries: Entry, durable: bool = False) -> None:
        """
        Append the queued entries and *entries* in one write.

        Once this returns, a crash of the process does not lose them; with *durable*, a crash
        of the machine does not, either. After an error none of them counts.

        Raises:
            StorageError: The file system refused, or this process does not own the journal.
        """
        if not self.is_owned:
            raise StorageError(f"journal {self.path} is not owned by this process")
        data = self._prefix + encode((*self._queued, *entries), timestamp())
        try:
            if self._tail_dirty:
                self._truncate_tail()
            self._tail_dirty = True  # Until the whole write is done.
            write_all(self._fd, data, offset=self._end)
            if durable:
                fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # After an error the next append tries again.
                self._truncate_tail()
            with storage_errors("write journal", self.path):
                raise
        self._end += len(data)
        self._tail_dirty = False
        self._prefix = b""
        self._queued = []

    def append_or_queue(self, entry: Entry, *, durable: bool = False) -> None:
        """
        Append *entry*, or queue it for the next append if the file system refuses.

        An entry that is still queued when the journal is closed is lost.
        """
        try:
            self.append(entry, durable=durable)
        except StorageError:
            self._queued.append(entry)

    def _truncate_tail(self) -> None:
        """Remove the rest of a failed write, so that later lines do not become part of it."""
        os.ftruncate(self._fd, self._end)
        self._tail_dirty = False

    @property
    def is_owned(self) -> bool:
        """Whether this process opened the journal, and has not closed it."""
        return not self._closed and os.getpid() == self._owner

    def close(self) -> None:
        """Release the journal, also for processes forked meanwhile. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if os.getpid() == self._owner:
                locks.unlock(self._fd)
        finally:
            os.close(self._fd)


# --- opening and locking -------------------------------------------------------------------


def read_journal(fd: int, path: Path) -> ParsedJournal:
    """Read and parse an open journal; raise StorageError if it cannot be read."""
    with storage_errors("read journal", path):
        return parse(read_all(fd))


def _open(path: Path, flags: int) -> int:
    try:
        return open_private(path, flags)
    except FileNotFoundError:
        raise SagaNotFound(f"there is no open saga {path.stem!r}") from None
    except StorageError as error:
        if is_file(path):
            raise
        raise JournalDamaged(f"journal {path} is no regular file") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a journal for reading; raise SagaNotFound, JournalDamaged or StorageError."""
    fd = _open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def acquire(path: Path, timeout_s: float) -> int:
    """
    Open a journal, and acquire its lock within *timeout_s*; return the descriptor.

    Raises:
        SagaNotFound: There is no such file.
        SagaBusy: Another process has the lock.
        JournalDamaged: The journal is no regular file.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        fd = _open(path, os.O_RDWR)
        try:
            with storage_errors("lock", path):
                _lock(fd, path, deadline - time.monotonic())
                if locks.same_file(fd, path):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        # During the wait the journal was closed and moved away, or rebuilt.


def _lock(fd: int, path: Path, timeout_s: float) -> None:
    """Lock the journal within *timeout_s*; a reader's lock does not count, and is waited for."""
    if locks.try_lock(fd):
        return
    if locks.try_lock(fd, shared=True):  # Only readers hold the lock.
        locks.unlock(fd)
        timeout_s = max(timeout_s, _READER_TIMEOUT_S)
    if not locks.lock_within(fd, timeout_s):
        raise SagaBusy(f"saga {path.stem!r} is owned by another living process")


def is_file(path: Path) -> bool:
    """Return False if something else than a regular file has the name of a journal."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True  # The next call that needs the file reports the error.
