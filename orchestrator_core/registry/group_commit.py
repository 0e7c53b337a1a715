"""
Group commit: one fsync makes the updates of many writers durable.

DeWitt and others, *Implementation techniques for main memory database systems*
(SIGMOD 1984). An update has two halves, and a lock for each:

- *Write*, under the document's lock: the whole new version goes to a staging slot
  (:mod:`.staging`). The next writer builds on it. No reader sees it.
- *Flush*, under the flush lock: the newest written version replaces the registry,
  durably. All earlier versions are part of it, so their writers need no fsync.

A writer that gets both locks without waiting writes the new registry directly.
No pending version exists in between.

Versions are numbered. The document's lock file holds four counters behind its
owner's signature: how far versions are written, how far flushed, how often a
failed flush has aborted, and how far versions were flushed before the last abort.

Guarantees:

- Readers see only complete versions whose content is on the disk. A reader may see a
  version just before its rename is durable, too.
- A writer returns only after a version that contains its update is durable.
- If a flush fails, all unflushed versions are aborted, under both locks, and each
  of their writers gets the error.
- A writer that is killed has updated the registry or not. If its version was
  written, another writer's flush may publish it later.
- A power failure loses only versions that are not durable yet. None of their writers has
  returned.

Waiting writers queue at two locks. The owner of the queue's lock is the next to
flush. The others wait, shared, until that owner has the flush lock; what they have
written is then part of its flush. They share the flush lock as soon as it is free,
all at once, and read the counters. If each took the flush lock exclusively instead,
the writers would spend as long on reading as on the disk, and a writer that has just
flushed would take the lock again before the waiting ones wake up.

Order of locks: queue, flush, document. A repair begins with the flush lock, since
no other writer may flush its version.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.exceptions import LockTimeout, NotFound, StorageError
from orchestrator_core.registry.staging import read_version, write_version
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

_MAX_RIDES = 3  #: A writer relies on this many flushes of others, then it flushes itself.
_ABORT_TIMEOUT_S = 10.0  #: How long an abort waits for the document's lock.


class PendingVersion(NamedTuple):
    """A version that is written and not known to be flushed."""

    number: int
    aborts: int  #: How many aborts came before it.


class Transaction:
    """
    One update of the registry at *path*, by one thread; *what* names it in messages.

    Each wait for a lock ends after *timeout_s*. :meth:`close` ends the transaction.
    """

    def __init__(self, path: Path, *, what: str, timeout_s: float) -> None:
        #: The newest version if it was not flushed when the document's lock was acquired.
        self.unflushed: bytes | None = None
        self._path = path
        self._what = what
        self._timeout_s = timeout_s
        # The names of the lock files stay: processes of older releases use them, too.
        self._lock = locks.LockFile(path, what=what)
        self._flush_lock = locks.LockFile(path, what=what, name="settle.lock")
        self._queue_lock = locks.LockFile(
            path, what=what, name="queue.lock", wait_target="settle.lock"
        )
        self._counters = _Counters(0, 0, 0, 0)  #: As the document's lock found them.
        self._has_waited = False

    def close(self) -> None:
        """Release all locks; without :meth:`commit`, nothing has changed."""
        with contextlib.ExitStack() as stack:  # An interrupt of one leaves no other held.
            for lock in (self._queue_lock, self._flush_lock, self._lock):
                stack.callback(lock.close)

    # --- writing -----------------------------------------------------------------------------

    def lock(self) -> None:
        """
        Acquire the document's lock.

        Raises:
            NotFound: The registry's directory is gone.
            LockTimeout: Another process held the lock for too long.
        """
        try:
            if not self._lock.try_acquire():
                self._has_waited = True
                self._lock.acquire(self._timeout_s)
        except FileNotFoundError:
            raise self.not_found() from None
        if self._lock.previous_owner_died:
            durable.remove_stale_temps(self._path)
        self.unflushed = self._read_unflushed()

    def lock_exclusive(self) -> None:
        """Acquire the flush lock, then the document's: no other thread writes or flushes."""
        try:
            self._flush_lock.acquire(self._timeout_s, sign=False)
        except FileNotFoundError:
            raise self.not_found() from None
        self.lock()

    def unlock(self) -> None:
        """Release the document's lock after an update that is complete."""
        self._lock.release()

    def not_found(self) -> NotFound:
        """Return the error for a registry that does not exist."""
        return NotFound(f"there is no {self._what} {self._path}")

    def commit(self, version: PendingVersion | None) -> None:
        """Release the document's lock, and return when *version* is durable: see :meth:`flush`."""
        self.unlock()
        self.flush(version)

    def pending(self) -> PendingVersion | None:
        """Return the newest version if it is not flushed."""
        if self.unflushed is None:
            return None
        return PendingVersion(self._counters.written, self._counters.aborts)

    def write(self, data: bytes) -> PendingVersion | None:
        """
        Write a new version and return it; None if it is the registry already.

        Needs the document's lock. :meth:`flush` makes either durable.

        Raises:
            StorageError: The disk refused; the document is unchanged.
        """
        if self.unflushed is None and self._can_flush_directly():
            durable.replace_unsynced(self._path, data)
            return None
        written, flushed, aborts, _ = self._counters
        version = PendingVersion(max(written, flushed) + 1, aborts)
        write_version(self._path, version.number, data)
        with storage_errors("write", self._path):
            self._set(_WRITTEN, version.number)  # From here on, the version exists.
        return version

    def _can_flush_directly(self) -> bool:
        """Acquire the flush lock if that needs no wait. Under contention, fsyncs are shared."""
        return not self._has_waited and self._flush_lock.try_acquire(sign=False)

    def _read_unflushed(self) -> bytes | None:
        self._counters = counters = self._read_counters()
        if counters.written <= counters.flushed:
            return None
        return read_version(self._path, counters.written)

    def _read_counters(self) -> _Counters:
        with storage_errors("read", self._path):
            return _Counters.read(self._lock.fileno())

    def _set(self, index: int, *numbers: int) -> None:
        """Write adjacent counters from *index* on, by one call."""
        fields = [b"%020d %020d\n" % (number, number) for number in numbers]
        os.pwrite(self._lock.fileno(), b"".join(fields), _OFFSET + _SIZE * index)

    # --- flushing ----------------------------------------------------------------------------

    def flush(self, version: PendingVersion | None) -> None:
        """
        Return when *version* is durable, by this thread's flush or another writer's.

        With None, make the registry durable as it is: another writer may have replaced it
        and not finished. Call it without the document's lock.

        Raises:
            LockTimeout: A wait took too long. The version exists, and may become durable later.
            StorageError: The disk refused, and the old document stands, unless
                the hint says that this is unknown.
        """
        try:
            if version is None:
                self._flush_lock.acquire(self._timeout_s, sign=False)
                durable.sync_name(self._path)
                self._flush_lock.release()
            else:
                self._flush_version(version)
        except LockTimeout as timeout:
            raise LockTimeout(
                f"{timeout}; by then it was written", hint=durable.STATE_UNKNOWN
            ) from None
        except FileNotFoundError:
            raise self.not_found() from None

    def _flush_version(self, version: PendingVersion) -> None:
        try:
            with storage_errors("flush", self._path):
                # A repair has the flush lock already, and waits for no other writer.
                if not self._flush_lock.is_held and self._wait_for_other_flush(version):
                    return
                self._flush_lock.acquire(self._timeout_s, sign=False)
                self._queue_lock.abandon()
                if not self._is_flushed(version):
                    self._flush_newest()
                self._flush_lock.release()
        except _Aborted as aborted:
            raise aborted.error from aborted.error.__cause__
        except StorageError as error:
            raise StorageError(str(error), hint=durable.STATE_UNKNOWN) from error.__cause__

    def _wait_for_other_flush(self, version: PendingVersion) -> bool:
        """Return True once another writer has flushed *version*; False with the queue's lock."""
        for _ in range(_MAX_RIDES):
            if self._queue_lock.try_acquire(sign=False):
                return False
            self._queue_lock.wait_until_free(self._timeout_s)
            self._flush_lock.acquire(self._timeout_s, shared=True)
            is_flushed = self._is_flushed(version)
            self._flush_lock.release()
            if is_flushed:
                return True
        self._queue_lock.acquire(self._timeout_s, sign=False)
        return False

    def _is_flushed(self, version: PendingVersion) -> bool:
        counters = self._read_counters()
        if counters.aborts == version.aborts:
            return counters.flushed >= version.number
        error = StorageError(
            f"{self._path}: another writer's flush failed, and this update with it"
        )
        if counters.aborts > version.aborts + 1:
            raise error  # Only the last abort is recorded, so this version's fate is unknown.
        if version.number > counters.flushed_before_abort:
            raise _Aborted(error)
        return True

    def _flush_newest(self) -> None:
        self._lock.acquire(self._timeout_s, sign=False)
        newest, written = self._read_unflushed(), self._counters.written
        self.unlock()
        if newest is None:
            raise StorageError(f"{self._path}: the version to flush is gone")
        self._publish(newest)
        durable.sync_name(self._path)
        # If this is refused, the next writer flushes the same version once more.
        with contextlib.suppress(OSError):
            self._set(_FLUSHED, written)

    def _publish(self, newest: bytes) -> None:
        temp_path = f"{self._path.parent}/.{self._path.name}.settling"
        try:
            durable.replace_unsynced(self._path, newest, temp_path=temp_path)
        except StorageError as error:
            with contextlib.suppress(FileNotFoundError, StorageError):
                if durable.read(self._path) == newest:
                    return  # Published by a writer that died before it counted the version.
            self._abort_pending()
            raise _Aborted(error) from None

    def _abort_pending(self) -> None:
        """Abort all unflushed versions; their writers read that from the counters."""
        self._lock.acquire(_ABORT_TIMEOUT_S)
        counters = self._read_counters()
        with storage_errors("write", self._path):
            # By one call: a writer that reads of an abort must not find its version flushed later.
            self._set(_FLUSHED, counters.written, counters.aborts + 1, counters.flushed)
        self.unlock()


class _Aborted(Exception):
    """The unflushed versions are aborted because of an error: the old document stands."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


_WRITTEN, _FLUSHED = range(2)  #: Where the first two counters are.
_COUNTERS = 4
_SIZE = 2 * 21  #: Bytes of one counter in the lock file.
_OFFSET = 64  #: The owner's signature, before the counters, is shorter.


class _Counters(NamedTuple):
    """
    How far a registry's versions have come, as the document's lock file has it.

    Each counter is there twice. A reader without the counter's lock may meet a write in
    progress; the two copies then differ, and the counter reads as 0.
    """

    written: int  #: Changed under the document's lock.
    flushed: int  #: Changed under the flush lock; may read as 0 without it.
    aborts: int  #: How many flushes have failed. Changed under both locks.
    flushed_before_abort: int  #: ``flushed`` at the last abort. Changed under both locks.

    @classmethod
    def read(cls, fd: int) -> _Counters:
        data = os.pread(fd, _COUNTERS * _SIZE, _OFFSET)
        return cls(*(_counter(data[at : at + _SIZE]) for at in range(0, _COUNTERS * _SIZE, _SIZE)))


def _counter(field: bytes) -> int:
    once, _, again = field[:-1].partition(b" ")
    return int(once) if once == again and once.isdigit() else 0
