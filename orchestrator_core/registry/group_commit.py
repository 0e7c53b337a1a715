"""
How a new edition of a registry reaches the disk: many at once, by one fsync.

An update has two halves, and a lock for each:

- It is *written* under the document's lock: whole, in a place beside the registry
  (:mod:`.slots`), where the next update builds on it. Nobody else sees it there.
- It is *settled* under the settle lock: who gets that takes the newest edition,
  and replaces the registry with it, durably. With it go all that were written
  before; they find it done, and leave.

Those who wait do so at two doors. Who finds the queue's lock free holds it until it gets
the settle lock: it is the next to settle. The others share it when that has happened, and
what they wrote is part of what is settled now; so they share the settle lock as soon as it
is free, all at the same time, and look. Were each to take the settle lock for itself, a
crowd would spend as long on being told as on the disk; and who has just settled, and is
still running, would take it again before any that wait have woken up.

So readers see only what is on the disk, and of eight processes that update at
once, one does for all what would cost each of them two fsyncs. (Databases call it
group commit: DeWitt and others, *Implementation techniques for main memory
database systems*, SIGMOD 1984.) Who is alone, and finds both locks free, settles
at once what it writes: there is no edition between the old registry and the new.

Editions are numbered. The numbers are in the document's lock file, behind the
holder's signature: how far it is written, how far settled. If settling fails, all
that was not settled is dropped, under both locks, and whoever waits for it is
told. An update whose process is killed has happened or not; killed in a crowd, it
may also happen a little later, with the edition of another. A power failure takes
what is not settled, since nobody was told that it holds.

Locks are waited for in one order: the queue's, the settle lock, the document's. Who mends a
registry begins with the second, since its own edition rides with nobody's.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple, Self

from orchestrator_core.exceptions import StorageError
from orchestrator_core.registry.staging import StagingSlots
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.system.locks import Acquire

UNKNOWN = "whether it reached the disk is unknown: read it again before going on"
_RIDES = 3  #: So often it waits for others to settle for it, then it sees to it itself.
_DROP_S = 10.0  #: Writers are quick. Were one not, what has failed would be tried again.


class CommitLog:
    """The editions of the registry at *path*; *what* names it in messages."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self.slots = StagingSlots(path)
        #: The next registry, on its way to the disk.
        self.settling = f"{path.parent}/.{path.name}.settling"


class PendingVersion(NamedTuple):
    """An edition that is written, and to be settled."""

    number: int
    drops: int  #: How often others had been dropped before.


class Transaction:
    """
    One revision of a registry, by one thread at a time: its locks, and what their holder may do.

    Closing it, or leaving its ``with`` block, lets go of whatever is held.
    """

    def __init__(self, editions: CommitLog) -> None:
        self._editions = editions
        self._path = editions.path
        self._writing = locks.LockFile(editions.path, what=editions.what)
        self._settling = locks.LockFile(editions.path, what=editions.what, name="settle.lock")
        self._queue = locks.LockFile(
            editions.path, what=editions.what, name="queue.lock", wait_target="settle.lock"
        )
        self._numbers = _Numbers(0, 0, 0, 0)  #: As they were when the lock was taken.
        self._has_waited = False
        self._has_replaced = False
        #: The newest edition, if it was not settled when the lock was taken.
        self.unsettled: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def pause(self) -> None:
        """Let go of whatever is held; who goes on, in whatever thread, finds the files open."""
        self._writing.abandon()
        self._settling.abandon()
        self._queue.abandon()

    def close(self) -> None:
        """Let go of whatever is held, and close the files."""
        self._writing.close()
        self._settling.close()
        self._queue.close()

    # --- writing -----------------------------------------------------------------------------

    def lock(self, take: Acquire) -> None:
        """
        Take the document's lock.

        Raises:
            FileNotFoundError: The registry's directory is not there.
        """
        self._writing.acquire(take)
        self._has_waited = take is not locks.nonblocking
        if self._writing.previous_owner_died:
            durable.remove_stale_temps(self._path)
        self.unsettled = self._newest()

    def unlock(self) -> None:
        """Let the document's lock go, having got to our end."""
        self._writing.release()

    def lock_alone(self, take: Acquire) -> None:
        """Take both locks: nobody writes or settles anything meanwhile."""
        self._settling.acquire(take)
        self.lock(take)

    def pending(self) -> PendingVersion | None:
        """Return the newest edition if it is not settled yet."""
        if self.unsettled is None:
            return None
        return PendingVersion(self._numbers.written, self._numbers.drops)

    def write(self, data: bytes) -> PendingVersion | None:
        """
        Write a new edition, and return it; None if it is in its place already.

        Needs the document's lock. Either way it is to be settled.

        Raises:
            StorageError: The disk refused; the document is as it was.
        """
        if self.unsettled is None and self._settles_alone():
            durable.replace_unsynced(self._path, data)
            self._has_replaced = True
            return None
        numbers = self._numbers
        edition = PendingVersion(max(numbers.written, numbers.settled) + 1, numbers.drops)
        self._editions.slots.write(edition.number, data)
        with storage_errors("write", self._path):
            self._set(_WRITTEN, edition.number)  # With this it is there.
        return edition

    def _settles_alone(self) -> bool:
        """Tell whether we settle at once. Not in a crowd: the others would wait for our fsyncs."""
        if self._has_waited:
            return False
        try:
            self._settling.acquire(locks.nonblocking, sign=False)
        except locks.WouldBlock:
            return False
        return True

    def _newest(self) -> bytes | None:
        """Return the newest edition if it may not be settled. Needs the document's lock."""
        self._numbers = numbers = self._read()
        if numbers.written <= numbers.settled:
            return None
        return self._editions.slots.read(numbers.written)

    def _read(self) -> _Numbers:
        try:
            return _Numbers.read(self._writing.fileno())
        except OSError as error:
            raise storage_error("read", self._path, error) from error

    def _set(self, place: int, *numbers: int) -> None:
        _Numbers.write(self._writing.fileno(), place, numbers)

    # --- settling ----------------------------------------------------------------------------

    def settle(self, edition: PendingVersion | None, take: Acquire) -> None:
        """
        See to it that what was written is on the disk, whoever has done it.

        Needs no lock, and no lock may be held but what :meth:`write` took.

        Raises:
            StorageError: The disk refused, and the old document stands, unless
                the message says that this is unknown.
        """
        if edition is None:
            # Without a change: who wrote what stands there may be settling it just now.
            self._settling.acquire(take, sign=False)
            if self._has_replaced or take is not locks.nonblocking:
                durable.sync_name(self._path)
            self._settling.release()
            return
        try:
            with storage_errors("settle", self._path):
                # Who has the settle lock already waits for nobody who waits for it.
                if not self._settling.is_held and self._goes_with_another(edition, take):
                    return
                self._settling.acquire(take, sign=False)
                self._queue.abandon()
                if not self._is_settled(edition):
                    self._settle_newest(take)
                self._settling.release()
        except _Dropped as dropped:
            raise dropped.error from dropped.error.__cause__
        except StorageError as error:
            raise StorageError(str(error), hint=UNKNOWN) from error.__cause__

    def _goes_with_another(self, edition: PendingVersion, take: Acquire) -> bool:
        """Wait while others settle; if that is not settled then, have the queue's lock."""
        for _ in range(_RIDES):
            try:
                self._queue.acquire(locks.nonblocking, sign=False)
            except locks.WouldBlock:
                if take is locks.nonblocking:
                    raise
            else:
                return False
            self._queue.wait_until_free(take)
            self._settling.acquire(take, shared=True)
            is_settled = self._is_settled(edition)
            self._settling.release()
            if is_settled:
                return True
        self._queue.acquire(take, sign=False)
        return False

    def _is_settled(self, edition: PendingVersion) -> bool:
        numbers = self._read()
        if numbers.drops == edition.drops:
            return numbers.settled >= edition.number
        error = StorageError(f"{self._path} could not be written by another for us")
        if numbers.drops > edition.drops + 1:
            raise error  # Before which of them we were settled, if before any, is forgotten.
        if edition.number > numbers.kept:
            raise _Dropped(error)
        return True

    def _settle_newest(self, take: Acquire) -> None:
        self._writing.acquire(take, sign=False)
        newest, written = self._newest(), self._numbers.written
        self.unlock()
        if newest is None:
            raise StorageError(f"{self._path}: what was to be settled is gone")
        self._publish(newest)
        durable.sync_name(self._path)
        # If this is refused, the others settle once more what is settled.
        with contextlib.suppress(OSError):
            self._set(_SETTLED, written)

    def _publish(self, newest: bytes) -> None:
        try:
            durable.replace_unsynced(self._path, newest, temp_path=self._editions.settling)
        except StorageError as error:
            if self._is_published(newest):  # By one who died before saying so.
                return
            self._drop_pending()
            raise _Dropped(error) from None

    def _is_published(self, newest: bytes) -> bool:
        try:
            return durable.read(self._path) == newest
        except (FileNotFoundError, StorageError):
            return False

    def _drop_pending(self) -> None:
        """Drop all that is not settled, and let those who wait for it know."""
        self.lock(locks.blocking(_DROP_S))
        numbers = self._numbers
        with storage_errors("write", self._path):
            # All or nothing: whoever was told of a drop must not find it in the next edition.
            self._set(_SETTLED, numbers.written, numbers.drops + 1, numbers.settled)
        self.unlock()


class _Dropped(Exception):
    """What was not settled has been dropped, because of an error: the old document stands."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


_WRITTEN, _SETTLED, _DROPS, _KEPT = range(4)  #: The places of the numbers in the lock file.
_SIZE = 2 * 21  #: Of one.
_WHOLE = re.compile(b"".join(rb"(?:(\d{20}) \%d\n)?" % place for place in range(1, 5)))
_AT = 64  #: The holder's signature, before them, is shorter.


class _Numbers(NamedTuple):
    """
    How far the editions of a registry have come, as its document's lock file has it.

    Each number is there twice: one that is read while it is written, without the
    lock for it, is seen to be so, and reads as 0.
    """

    written: int  #: Under the document's lock.
    settled: int  #: Under the settle lock; 0, at worst, to those who have not got it.
    drops: int  #: How often what was not settled was dropped. Under both locks.
    kept: int  #: How far it was settled at the last drop. Under both locks.

    @classmethod
    def read(cls, fd: int) -> _Numbers:
        found = os.pread(fd, 4 * _SIZE, _AT)
        if whole := _WHOLE.fullmatch(found):
            return cls(*map(int, whole.groups(default=0)))
        return cls(*(_number(found[at : at + _SIZE]) for at in range(0, 4 * _SIZE, _SIZE)))

    @classmethod
    def write(cls, fd: int, place: int, numbers: Iterable[int]) -> None:
        """Write some that stand one after another, by one call."""
        fields = [b"%020d %020d\n" % (number, number) for number in numbers]
        os.pwrite(fd, b"".join(fields), _AT + _SIZE * place)


def _number(field: bytes) -> int:
    once, _, again = field[:-1].partition(b" ")
    return int(once) if once == again and once.isdigit() else 0
