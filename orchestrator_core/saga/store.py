"""
The journals of all sagas of one place: open ones, and those in ``closed/``.

Whatever instant a crash chooses, a journal is under the name of its saga, or in
a spare that leads to it (:mod:`~orchestrator_core.saga.preallocation`), and it is whole.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.exceptions import (
    JournalDamaged,
    SagaBusy,
    SagaError,
    SagaExists,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.saga.encoding import ParsedJournal, parse
from orchestrator_core.saga.history import load_history
from orchestrator_core.saga.journal import Journal
from orchestrator_core.saga.preallocation import Spares, is_at
from orchestrator_core.system import durable, locks, move
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator_core.saga.encoding import Entry
    from orchestrator_core.saga.history import History
    from orchestrator_core.saga.preallocation import Spare

SUFFIX = ".jsonl"
_LOOK_S = 1.0  #: Far longer than anybody looks at a journal.


@attrs.frozen
class JournalStore:
    """A directory of journals. Any number of threads and processes may share it."""

    path: Path

    @classmethod
    def open_directory(cls, path: str | os.PathLike[str]) -> Self:
        """
        Make the directories if they are missing, and lay spares ready.

        Raises:
            StorageError: They cannot be used.
        """
        directory = cls(Path(path))
        durable.make_directory(directory.closed)
        directory._adopt_left_behind()
        if directory._spares.are_missing():
            with contextlib.suppress(StorageError):  # A place to look at need not be writable.
                directory._spares.lay()
        return directory

    @property
    def closed(self) -> Path:
        """Where the journals of closed sagas go."""
        return self.path / "closed"

    def file(self, saga_id: str) -> Path:
        """Return the path of an open saga's journal."""
        return Path(self._file(saga_id))

    def closed_file(self, saga_id: str) -> Path:
        """Return the path of a closed saga's journal."""
        return Path(self._closed_file(saga_id))

    # pathlib is slow, and these are on every saga's way.

    def _file(self, saga_id: str) -> str:
        return f"{self.path}/{check_id('saga id', saga_id)}{SUFFIX}"

    def _closed_file(self, saga_id: str) -> str:
        return f"{self.path}/closed/{check_id('saga id', saga_id)}{SUFFIX}"

    # --- looking ----------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Return the ids of all sagas that are not closed, sorted."""
        self._adopt_left_behind()
        return sorted(self._names(self.path))

    def contains(self, saga_id: str) -> bool:
        """Tell whether there is an open saga of that id."""
        if not is_id(saga_id):
            return False
        if os.path.lexists(self._file(saga_id)):
            return True
        self._adopt_left_behind()
        return os.path.lexists(self._file(saga_id))

    def closed_ids(self) -> Iterator[str]:
        """Return the ids of the closed sagas, in no order."""
        return self._names(self.closed)

    def _names(self, directory: Path) -> Iterator[str]:
        with storage_errors("list", directory), os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    yield entry.name.removesuffix(SUFFIX)

    def read(self, saga_id: str) -> ParsedJournal:
        """
        Read a saga's journal, open or closed, without owning it.

        Raises:
            SagaNotFound: There is none.
            JournalDamaged: What has its name is no file.
        """
        # Closing renames it once: what is in neither place at two looks is nowhere.
        for path in (self._file(saga_id), self._closed_file(saga_id), self._file(saga_id)):
            try:
                fd = _open_file(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                return _read(fd, path)
            finally:
                os.close(fd)
        raise SagaNotFound(f"there is no saga {saga_id!r}")

    def history(self, saga_id: str) -> History:
        """
        Read what has happened to a saga, open or closed, without owning it.

        Raises:
            SagaNotFound: There is none.
            JournalDamaged: Its journal is not whole.
        """
        return load_history(self.read(saga_id), saga_id)

    # --- owning -----------------------------------------------------------------------------

    def create(self, saga_id: str, entries: Sequence[Entry]) -> Journal:
        """
        Return a new journal that holds *entries*, durably, and that we own.

        Raises:
            SagaExists: The id was used before.
            StorageError: The file system refused; there is no journal.
        """
        path = self._file(saga_id)
        spare = self._spares.take()
        try:
            journal = Journal(path, spare.fd, ParsedJournal())
            journal.append(*entries, durable=True)
            self._name(spare, path, saga_id)
        except BaseException:
            if is_at(spare.fd, path):
                with contextlib.suppress(OSError):  # Nothing is taken: recovery may find it.
                    os.unlink(path)  # noqa: PTH108 - `os` calls are where the tests break in
            spare.give_up()
            raise
        with contextlib.suppress(OSError):  # Left behind, it has a journal's name, and is dropped.
            os.unlink(spare.path)  # noqa: PTH108 - see above
        return journal

    def _name(self, spare: Spare, path: str, saga_id: str) -> None:
        try:
            os.link(spare.path, path)
        except FileExistsError:
            raise SagaExists(f"there is a saga {saga_id!r} already") from None
        except OSError:
            with storage_errors("create journal", path):
                raise
        # Asked only now: one of that id may be closed at this very moment, and make room.
        if os.access(self._closed_file(saga_id), os.F_OK):
            raise SagaExists(f"there was a saga {saga_id!r} already; it is closed")

    def open(self, saga_id: str, *, timeout_s: float = 0.0) -> tuple[Journal, History]:
        """
        Return the journal of an open saga, owned by us from now on, and what it tells.

        An owner holds the exclusive lock. Who only looks shares it for a moment: that
        makes no saga busy, it is waited for.

        Raises:
            SagaNotFound: There is no open saga of that id.
            SagaBusy: Its owner is alive, and did not let go within *timeout_s*.
            JournalDamaged: It is not whole.
        """
        path = self._file(saga_id)
        fd = self._acquire(saga_id, path, timeout_s)
        try:
            reading = _read(fd, path)
            return Journal(path, fd, reading), load_history(reading, saga_id)
        except BaseException:
            os.close(fd)
            raise

    def _acquire(self, saga_id: str, path: str, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fd = _open_file(path, os.O_RDWR)
            except FileNotFoundError:
                raise SagaNotFound(f"there is no open saga {saga_id!r}") from None
            try:
                with storage_errors("lock", path):
                    owned = _lock(fd, deadline - time.monotonic())
                if owned and is_at(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            if not owned:
                raise SagaBusy(f"saga {saga_id!r} is being worked on by somebody else")
            # While we waited it was closed and moved away, or rebuilt.

    def archive(self, journal: Journal) -> None:
        """
        Move a closed saga's journal to ``closed/``, durably, and let go of it.

        If a crash comes before, recovery finds a closed saga among the open ones,
        and retires it again.

        Raises:
            StorageError: The file system refused.
        """
        with storage_errors("retire journal", journal.path):
            name = os.path.basename(journal.path)  # noqa: PTH119 - no pathlib on this way
            os.rename(journal.path, f"{self.path}/closed/{name}")  # noqa: PTH104 - see create
        try:
            self._spares.lay()  # Its fsync is what makes the rename durable.
        finally:
            journal.close()

    # --- after a crash ------------------------------------------------------------------------

    def _adopt_left_behind(self) -> None:
        """
        Give the journals that a crash left in spares their names, and drop other leftovers.

        What cannot be settled now is left for the next time.
        """
        with contextlib.suppress(StorageError):
            for spare in self._spares.left_behind():
                try:
                    with storage_errors("adopt", spare.path):
                        self._adopt(spare)
                finally:
                    os.close(spare.fd)

    def _adopt(self, spare: Spare) -> None:
        reading = _read(spare.fd, spare.path)
        saga_id = _is_of(reading)
        if saga_id is not None:
            with contextlib.suppress(FileExistsError):
                if not os.path.lexists(self._closed_file(saga_id)):
                    os.link(spare.path, self._file(saga_id))
        elif reading.damaged:
            left = Path(spare.path)
            move.move_no_clobber(left, left.with_name(f"{left.name[1:]}.damaged"))
            return
        os.unlink(spare.path)  # noqa: PTH108 - see create

    def rebuild(
        self, saga_id: str, mend: Callable[[tuple[Entry, ...]], list[Entry]]
    ) -> tuple[Path, Journal]:
        """
        Put a whole journal in the place of a damaged one, which is kept under another name.

        *mend* makes its entries from those that still check. Returns where the
        damaged one is now, and the new one, owned by us. However often a crash
        interrupts it, the damaged one is kept once.

        Raises:
            SagaBusy: Its owner is alive, or somebody else rebuilds it, or has.
        """
        # A journal that is no file cannot be locked, so whoever rebuilds locks the directory.
        with storage_errors("lock", self.path):
            turn = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not locks.try_lock(turn):
                raise SagaBusy(f"saga {saga_id!r}: somebody else is rebuilding a journal")
            return self._rebuild(saga_id, self._file(saga_id), mend)
        finally:
            os.close(turn)

    def _rebuild(
        self, saga_id: str, path: str, mend: Callable[[tuple[Entry, ...]], list[Entry]]
    ) -> tuple[Path, Journal]:
        damaged = self._acquire(saga_id, path, 0.0) if _is_file(path) else None
        try:
            reading = ParsedJournal() if damaged is None else _read(damaged, path)
            if damaged is not None and _is_whole(reading, saga_id):
                raise SagaBusy(f"saga {saga_id!r} was rebuilt by somebody else just now")
            entries = mend(reading.entries)
            spare = self._spares.take()
            try:
                journal = Journal(path, spare.fd, ParsedJournal())
                journal.append(*entries, durable=True)
                kept = _keep(Path(path))
                with storage_errors("rebuild journal", path):
                    os.rename(spare.path, path)  # noqa: PTH104 - see create
                durable.fsync_directory(self.path)
            except BaseException:
                spare.give_up()
                raise
        finally:
            if damaged is not None:
                os.close(damaged)
        return kept, journal

    @property
    def _spares(self) -> Spares:
        return Spares(self.path)


def _read(fd: int, path: str) -> ParsedJournal:
    with storage_errors("read journal", path):
        return parse(durable.read_all(fd))


def _lock(fd: int, timeout_s: float) -> bool:
    """Own the journal within *timeout_s*, or as soon as those are done who only look at it."""
    if locks.try_lock(fd):
        return True
    if locks.try_lock_shared(fd):  # Nobody owns it.
        locks.unlock(fd)
        timeout_s = max(timeout_s, _LOOK_S)
    return locks.lock_within(fd, timeout_s)


def _open_file(path: str, flags: int) -> int:
    try:
        return durable.open_private(path, flags)
    except StorageError as error:
        if _is_file(path):
            raise
        raise JournalDamaged(f"journal {path} is no regular file") from error


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True  # Gone by now, or not to be asked: that is for others to say.


def _is_of(reading: ParsedJournal) -> str | None:
    """Return the id of the saga whose journal this is, if it is whole."""
    if not reading.entries:
        return None
    saga_id = str(reading.entries[0].data.get("saga"))
    return saga_id if _is_whole(reading, saga_id) else None


def _is_whole(reading: ParsedJournal, saga_id: str) -> bool:
    try:
        load_history(reading, saga_id)
    except SagaError:
        return False
    return True


def _keep(path: Path) -> Path:
    """Give what is at *path* another name, too; a directory can have one name only."""
    target = path.with_name(f"{path.name}.damaged")
    with storage_errors("keep", path):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return Path(move.link_no_clobber(path, target))
        kept = next(name for name in move.numbered_names(target) if not os.path.lexists(name))
        os.rename(path, kept)  # noqa: PTH104 - see JournalStore.create
        return Path(kept)
