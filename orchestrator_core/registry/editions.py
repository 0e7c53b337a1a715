"""
How a new edition of a registry reaches the disk: many at once, by one fsync.

An update has two halves, and a lock for each:

- It is *written* under the document's lock: whole, under a name beside the
  registry, where the next update builds on it. Nobody else sees it there.
- It is *settled* under the settle lock: who gets that takes the newest edition,
  sees it to the disk, and renames it over the registry. With it go all that were
  written before; whoever of them comes next finds it done, and leaves.

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
what is not settled, or leaves it whole, or torn: then it is dropped, since nobody
was told that it holds.

Who holds the document's lock never waits for the settle lock; so the two can be
taken in the other order.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core import _files, locks
from orchestrator_core.exceptions import StorageError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.locks import Take

UNKNOWN = "whether it reached the disk is unknown: read it again before going on"
_DROP_S = 10.0  #: Writers are quick. Were one not, what has failed would be tried again.


class Editions:
    """The editions of the registry at *path*; *what* names it in messages."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self.next = path.with_name(f".{path.name}.next")
        self.settling = path.with_name(f".{path.name}.settling")

    @property
    def pending(self) -> tuple[Path, Path]:
        """Where an edition is that is not settled, the newer first; to be looked at so."""
        return (self.next, self.settling)


@attrs.frozen
class Edition:
    """An edition that is written, and to be settled."""

    number: int
    drops: int  #: How often others had been dropped before.


class Revision:
    """
    One revision of a registry, by one thread: its locks, and what their holder may do.

    Leaving its ``with`` block lets go of whatever is held.
    """

    def __init__(self, editions: Editions) -> None:
        self._editions = editions
        self._path = editions.path
        self._writing = locks.LockFile(editions.path, what=editions.what)
        self._settling = locks.LockFile(editions.path, what=editions.what, name="settle.lock")
        self._numbers = _Numbers(self._writing)
        self._has_replaced = False
        #: Where editions are that were not settled when the lock was taken, the newest first.
        self.unsettled: tuple[Path, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writing.close()
        self._settling.close()

    # --- writing -----------------------------------------------------------------------------

    def lock(self, take: Take) -> None:
        """
        Take the document's lock.

        Raises:
            FileNotFoundError: The registry's directory is not there.
        """
        self._writing.take(take)
        if self._writing.interrupted:
            _files.clear_leftovers(self._path)
        self.unsettled = tuple(filter(os.path.lexists, self._editions.pending))

    def unlock(self) -> None:
        """Let the document's lock go, having got to our end."""
        self._writing.let_go()

    def lock_alone(self, take: Take) -> None:
        """Take both locks: nobody writes or settles anything meanwhile."""
        self._settling.take(take)
        self.lock(take)

    def pending(self) -> Edition | None:
        """Return the newest edition if it is not settled yet."""
        if not self.unsettled:
            return None
        with _files.refusals("read", self._path):
            return Edition(self._numbers.written, self._numbers.drops)

    def write(self, data: bytes) -> Edition | None:
        """
        Write a new edition, and return it; None if it is in its place already.

        Needs the document's lock. Either way it is to be settled.

        Raises:
            StorageError: The disk refused; the document is as it was.
        """
        if not self.unsettled and self._settles_alone():
            _files.swap(self._path, data)
            self._has_replaced = True
            return None
        with _files.refusals("write", self._path):
            # Before it is there: an edition that has no number would settle unseen.
            self._numbers.written = number = self._numbers.highest + 1
            edition = Edition(number, self._numbers.drops)
        _files.swap(self._path, data, to=self._editions.next, durable=False)
        return edition

    def _settles_alone(self) -> bool:
        try:
            self._settling.take(locks.at_once, sign=False)
        except locks.Contended:
            return False
        return True

    # --- settling ----------------------------------------------------------------------------

    def settle(self, edition: Edition | None, take: Take) -> None:
        """
        See to it that what was written is on the disk, whoever has done it.

        Needs no lock, and no lock may be held but what :meth:`write` took.

        Raises:
            StorageError: The disk refused, and the old document stands, unless
                the message says that this is unknown.
        """
        if edition is None:
            if self._has_replaced:
                _files.settle(self._path)
                self._settling.let_go()
            return
        try:
            with _files.refusals("settle", self._path):
                self._settling.take(take, sign=False)
                if not self._is_settled(edition):
                    self._settle_newest(take)
                self._settling.let_go()
        except _Dropped as dropped:
            raise dropped.error from dropped.error.__cause__
        except StorageError as error:
            raise StorageError(str(error), hint=UNKNOWN) from error.__cause__

    def _is_settled(self, edition: Edition) -> bool:
        drops = self._numbers.drops
        if drops == edition.drops:
            return self._numbers.settled >= edition.number
        error = StorageError(f"{self._path} could not be written by another for us")
        if drops > edition.drops + 1:
            raise error  # Before which of them we were settled, if before any, is forgotten.
        if edition.number > self._numbers.kept:
            raise _Dropped(error)
        return True

    def _settle_newest(self, take: Take) -> None:
        self._writing.take(take, sign=False)
        written = self._numbers.written
        found = self._take_newest()
        self.unlock()
        if found:
            self._publish()
        # If it is gone, it was settled by one who died before saying so, and the
        # directory's fsync may be what was missing.
        _files.settle(self._path)
        # If this is refused, the others settle once more what is settled.
        with contextlib.suppress(OSError):
            self._numbers.settled = written

    def _take_newest(self) -> bool:
        """Give what is to be settled the name that no writer replaces; False if nothing is."""
        with _files.refusals("settle", self._path):
            try:
                os.rename(self._editions.next, self._editions.settling)  # noqa: PTH104 - see _files.replace
            except FileNotFoundError:
                return os.path.lexists(self._editions.settling)
        return True

    def _publish(self) -> None:
        try:
            _files.fsync_file(self._editions.settling)
            with _files.refusals("replace", self._path):
                os.rename(self._editions.settling, self._path)  # noqa: PTH104 - see above
        except StorageError as error:
            self._drop_pending()
            raise _Dropped(error) from None

    def _drop_pending(self) -> None:
        """Drop all that is not settled, and let those who wait for it know."""
        self.lock(locks.within(_DROP_S))
        self._numbers.kept = self._numbers.settled
        self._numbers.drops += 1
        for path in self._editions.pending:
            _files.remove(path, durable=False)
        self.unlock()


class _Dropped(Exception):
    """What was not settled has been dropped, because of an error: the old document stands."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


class _Number:
    """A number that is kept in a lock file; 0 if it is not there."""

    WIDTH = 20

    def __init__(self, place: int) -> None:
        # The holder's signature, before them, is shorter.
        self._at = 64 + (self.WIDTH + 1) * place

    def __get__(self, numbers: _Numbers, _owner: type[_Numbers]) -> int:
        digits = os.pread(numbers.fd, self.WIDTH, self._at)
        return int(digits) if digits.isdigit() else 0

    def __set__(self, numbers: _Numbers, number: int) -> None:
        os.pwrite(numbers.fd, b"%0*d\n" % (self.WIDTH, number), self._at)


class _Numbers:
    """How far the editions of a registry have come, in an open lock file."""

    written = _Number(0)  #: Under the document's lock.
    settled = _Number(1)  #: Under the settle lock.
    drops = _Number(2)  #: How often what was not settled was dropped. Under both locks.
    kept = _Number(3)  #: How far it was settled at the last drop. Under both locks.

    def __init__(self, lock: locks.LockFile) -> None:
        self._lock = lock

    @property
    def fd(self) -> int:
        """The document's lock file, open."""
        return self._lock.opened()

    @property
    def highest(self) -> int:
        """The highest number that an edition can have had."""
        return max(self.written, self.settled)
