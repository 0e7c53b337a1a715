"""
The journals of one directory: the open sagas', and in ``closed/`` the closed ones'.

- A journal appears under its saga's name when its first lines are complete and on the disk,
  so a journal without them is damaged.
- An owner holds the exclusive lock on the journal. A reader changes nothing. A reader that
  has to know whether there is an owner holds the shared lock for the time of one read.
- A closed journal never changes.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from orchestrator_core.exceptions import (
    JournalDamaged,
    SagaBusy,
    SagaError,
    SagaExists,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.saga.encoding import ParsedJournal, decode
from orchestrator_core.saga.history import load_history
from orchestrator_core.saga.journal import Journal, acquire, is_file, opened, read_journal
from orchestrator_core.saga.report import UnwindReport
from orchestrator_core.system import durable, locks, move
from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator_core.saga.encoding import Entry
    from orchestrator_core.saga.history import History

SUFFIX = ".jsonl"
_REBUILD_TIMEOUT_S = 5.0  #: A rebuild takes a few milliseconds.
_READ_TIMEOUT_S = 1.0  #: For a process that found the journal damaged, and holds it until then.
_NEW = ".new-"
_UNNAMED = (_NEW, ".spare-")  #: What a crash may leave. Earlier releases wrote ``.spare-*``.


@renamed_attributes(has="contains", retire="archive")
@attrs.frozen
class JournalStore:
    """
    A directory of journals. Any number of threads and processes may share it.

    Methods that take a saga's id raise InvalidId if the id is not safe in a file name.
    """

    path: Path
    _cache: dict[str, tuple[durable.Fingerprint, History]] = attrs.field(
        factory=dict, eq=False, repr=False
    )

    @classmethod
    def open_directory(cls, path: str | os.PathLike[str]) -> Self:
        """
        Create the directories if they are missing, and finish what a crash interrupted there.

        Raises:
            StorageError: The directories cannot be used.
        """
        store = cls(Path(path))
        durable.make_directory(store.closed)
        with contextlib.suppress(StorageError):  # A directory that is only read may be read-only.
            store._settle_unnamed()
        return store

    @property
    def closed(self) -> Path:
        """The directory of the closed sagas' journals."""
        return self.path / "closed"

    def file(self, saga_id: str) -> Path:
        """Return the path of an open saga's journal."""
        return self.path / f"{check_id('saga id', saga_id)}{SUFFIX}"

    def closed_file(self, saga_id: str) -> Path:
        """Return the path of a closed saga's journal."""
        return self.closed / f"{check_id('saga id', saga_id)}{SUFFIX}"

    # --- reading ----------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """
        Return the ids of all sagas that are not closed, sorted; a hostile file name is no id.

        Raises:
            StorageError: The directory cannot be listed.
        """
        found = sorted(saga_id for saga_id, _ in _list(self.path))
        for gone in self._cache.keys() - found:
            self._cache.pop(gone, None)  # Another thread may have done so.
        return found

    def contains(self, saga_id: str) -> bool:
        """Return whether there is an open saga of that id."""
        return is_id(saga_id) and os.path.lexists(self.file(saga_id))

    def read(self, saga_id: str) -> ParsedJournal:
        """
        Read a saga's journal, open or closed.

        Raises:
            SagaNotFound: There is no such saga.
            JournalDamaged: The journal is no regular file.
        """
        # Closing renames the journal once, so a saga whose journal is in neither place
        # does not exist.
        for path in (self.file(saga_id), self.closed_file(saga_id), self.file(saga_id)):
            with contextlib.suppress(SagaNotFound), opened(path) as fd:
                return read_journal(fd, path)
        raise SagaNotFound(f"there is no saga {saga_id!r}")

    def history(self, saga_id: str) -> History:
        """
        Read the history of a saga, open or closed.

        Raises:
            SagaNotFound: There is no such saga.
            JournalDamaged: The journal is not whole.
        """
        return load_history(self.read(saga_id), saga_id)

    def open_history(self, saga_id: str) -> History:
        """
        Return the history of an open saga, which may go on meanwhile.

        The result comes from a cache, and must not be changed: a journal that is the same
        file, and as long as before, is not read again, since writers only append.

        Raises:
            SagaNotFound: There is no open saga of that id.
            JournalDamaged: The journal is not whole.
            StorageError: The journal cannot be read.
        """
        path = self.file(saga_id)
        cached = self._cache.get(saga_id)
        if cached is not None and cached[0] == durable.fingerprint_at(path):
            return cached[1]
        with opened(path) as fd:
            fingerprint = durable.fingerprint(os.fstat(fd))  # The journal may grow meanwhile.
            history = load_history(read_journal(fd, path), saga_id)
        self._cache[saga_id] = fingerprint, history
        return history

    def history_if_unowned(self, saga_id: str) -> History | None:
        """
        Return the history of an open saga that has no owner; None if it has one.

        No owner was in the middle of anything when the journal was read. The result and
        the errors are those of :meth:`open_history`.
        """
        path = self.file(saga_id)
        with opened(path) as fd, storage_errors("lock", path):
            if not locks.try_lock(fd, shared=True):
                return None
            try:
                if not locks.same_file(fd, path):
                    raise SagaNotFound(f"saga {saga_id!r} was closed just now")
                return self.open_history(saga_id)
            finally:
                locks.unlock(fd)  # A process that was forked meanwhile has the descriptor, too.

    # --- reading the closed ones ---------------------------------------------------------------

    def closed_ids(self) -> list[str]:
        """Return the ids of all closed sagas, in no order."""
        return [saga_id for saga_id, _ in _list(self.closed) if is_id(saga_id)]

    def closed_stats(self) -> dict[str, os.stat_result]:
        """Return the status of each closed journal by saga id; its mtime is the time of closing."""
        found = {}
        for saga_id, entry in _list(self.closed):
            with contextlib.suppress(FileNotFoundError):  # Removed since it was listed.
                if is_id(saga_id):
                    found[saga_id] = entry.stat(follow_symlinks=False)
        return found

    def closed_report(self, saga_id: str) -> UnwindReport:
        """
        Return how a closed saga was unwound, from the last line of its journal.

        Raises:
            FileNotFoundError: There is no closed saga of that id.
            JournalDamaged: The last line holds no report.
            StorageError: The journal is no private file, or cannot be read.
        """
        last = self._closed_entry(saga_id, -1)
        if last.kind != "close":
            raise JournalDamaged(f"closed saga {saga_id!r}: its journal ends with {last.kind!r}")
        try:
            return msgspec.convert(last.data["report"], UnwindReport)
        except (KeyError, msgspec.ValidationError) as error:
            raise JournalDamaged(f"closed saga {saga_id!r}: no report: {error!r}") from error

    def closed_labels(self, saga_id: str) -> dict[str, Any]:
        """Return the labels of a closed saga; raises as :meth:`closed_report` does."""
        first = self._closed_entry(saga_id, 0)
        labels = first.data.get("labels", {})
        if first.kind != "begin" or not isinstance(labels, dict):
            raise JournalDamaged(f"closed saga {saga_id!r}: its journal has no beginning")
        return labels

    def _closed_entry(self, saga_id: str, index: int) -> Entry:
        lines = durable.read(self.closed_file(saga_id)).rstrip(b"\n").split(b"\n")
        try:
            return decode(lines[index])
        except ValueError as error:
            raise JournalDamaged(f"closed saga {saga_id!r}: {error}") from error

    def remove_closed(self, saga_id: str) -> int:
        """Remove a closed journal; return its size in bytes, 0 if there was none. See the next."""
        return durable.remove(self.closed_file(saga_id), durable=False)

    def sync_closed(self) -> None:
        """Make the removals of closed journals durable."""
        durable.fsync_directory(self.closed)

    # --- owning -----------------------------------------------------------------------------

    def create(self, saga_id: str, entries: Sequence[Entry]) -> Journal:
        """
        Return a new, durable journal that holds *entries*, owned by this process.

        A crash leaves the whole journal, or none.

        Raises:
            SagaExists: The id was used before.
            StorageError: The file system refused; there is no journal.
        """
        path = self.file(saga_id)
        with self._unnamed(path, entries) as (unnamed, fd, journal):
            try:
                self._link(unnamed, path, saga_id)
                _unlink(unnamed)
                durable.fsync_directory(self.path)
            except BaseException:
                if locks.same_file(fd, path):
                    _unlink(path)  # No step was done: recovery may close what remains.
                raise
        return journal

    @contextlib.contextmanager
    def _unnamed(self, path: Path, entries: Sequence[Entry]) -> Iterator[tuple[Path, int, Journal]]:
        """Write the journal for *path* under a temporary name; remove it if the block raises."""
        while True:
            unnamed = self.path / f"{_NEW}{os.getpid()}-{os.urandom(4).hex()}"
            fd = durable.open_private(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                with storage_errors("lock", unnamed):
                    is_owned = locks.try_lock(fd) and locks.same_file(fd, unnamed)
                if is_owned:
                    journal = Journal(path, fd, ParsedJournal())
                    journal.append(*entries, durable=True)
                    yield unnamed, fd, journal
                    return
            except BaseException:
                _unlink(unnamed)
                os.close(fd)
                raise
            os.close(fd)  # Another process took it for a leftover before it was locked.

    def _link(self, unnamed: Path, path: Path, saga_id: str) -> None:
        try:
            with storage_errors("create journal", path, allow=(FileExistsError,)):
                os.link(unnamed, path)
        except FileExistsError:
            raise SagaExists(f"there is a saga {saga_id!r} already") from None
        # Checked last: closing a saga of that id moves its journal away from *path*.
        if os.access(self.closed_file(saga_id), os.F_OK):
            raise SagaExists(f"there was a saga {saga_id!r} already; it is closed")

    def open(self, saga_id: str, *, timeout_s: float = 0.0) -> tuple[Journal, History]:
        """
        Return the journal of an open saga, owned by this process from now on, and its history.

        Raises:
            SagaNotFound: There is no open saga of that id.
            SagaBusy: Its owner is alive, and did not release it within *timeout_s*.
            JournalDamaged: The journal is not whole.
        """
        path = self.file(saga_id)
        fd = acquire(path, timeout_s)
        try:
            parsed = read_journal(fd, path)
            return Journal(path, fd, parsed), load_history(parsed, saga_id)
        except BaseException:
            os.close(fd)
            raise

    def archive(self, journal: Journal) -> None:
        """
        Move a closed saga's journal to ``closed/``, durably, and release it.

        After a crash before that, recovery finds a closed saga among the open ones, and
        archives it.

        Raises:
            StorageError: The file system refused.
        """
        with storage_errors("archive journal", journal.path):
            os.rename(journal.path, self.closed / journal.path.name)  # noqa: PTH104 - see _unlink
        try:
            durable.fsync_directory(self.path)
        finally:
            journal.close()

    # --- after a crash ------------------------------------------------------------------------

    def _settle_unnamed(self) -> None:
        """Name the complete journals that have no name yet, and remove other leftovers."""
        with storage_errors("list", self.path):
            names = os.listdir(self.path)  # noqa: PTH208 - pathlib is slow
        for name in names:
            if name.startswith(_UNNAMED):
                with contextlib.suppress(OSError, StorageError):
                    self._settle(self.path / name)

    def _settle(self, unnamed: Path) -> None:
        fd = durable.open_private(unnamed, os.O_RDONLY)
        try:
            if not (locks.try_lock(fd) and locks.same_file(fd, unnamed)):
                return  # A living process is creating it.
            parsed = read_journal(fd, unnamed)
            saga_id = _complete_id(parsed)
            if saga_id and not os.path.lexists(self.closed_file(saga_id)):
                with contextlib.suppress(FileExistsError):
                    os.link(unnamed, self.file(saga_id))
            if saga_id or not parsed.damaged:  # A damaged one is kept for inspection.
                _unlink(unnamed)
        finally:
            os.close(fd)

    def rebuild(
        self,
        saga_id: str,
        repair: Callable[[tuple[Entry, ...]], list[Entry]],
        *,
        is_damaged: Callable[[History], bool] = lambda _history: False,
    ) -> tuple[Path, Journal]:
        """
        Put a whole journal in the place of a damaged one, which is kept under another name.

        *repair* makes the entries from those that still check. *is_damaged* returns whether a
        journal whose lines all check is damaged, too. Returns the new path of the
        damaged journal, and the new journal, owned by this process. However often a crash
        interrupts a rebuild, the damaged journal is kept once.

        Raises:
            SagaBusy: The owner is alive, or another process rebuilds the journal, or did.
        """
        path = self.file(saga_id)
        with contextlib.ExitStack() as stack:
            # A journal that is no file cannot be locked, so the directory is.
            with storage_errors("lock", self.path):
                directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            if not locks.lock_within(directory, _REBUILD_TIMEOUT_S):
                raise SagaBusy(f"saga {saga_id!r}: another process is rebuilding a journal")
            parsed = ParsedJournal()
            if is_file(path):
                damaged = acquire(path, _READ_TIMEOUT_S)
                stack.callback(os.close, damaged)
                parsed = read_journal(damaged, path)
            if _complete_id(parsed) == saga_id and not is_damaged(load_history(parsed, saga_id)):
                raise SagaBusy(f"saga {saga_id!r} was rebuilt by another process")
            with self._unnamed(path, repair(parsed.entries)) as (unnamed, _, journal):
                quarantined = _quarantine(path)
                with storage_errors("rebuild journal", path):
                    os.rename(unnamed, path)  # noqa: PTH104 - see _unlink
                durable.fsync_directory(self.path)
        return quarantined, journal


def _list(directory: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with storage_errors("list", directory), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                yield entry.name.removesuffix(SUFFIX), entry


def _complete_id(parsed: ParsedJournal) -> str | None:
    """Return the id of the saga whose journal this is; None if the journal is not whole."""
    saga_id = str(parsed.entries[0].data.get("saga")) if parsed.entries else ""
    try:
        load_history(parsed, saga_id)
    except SagaError:
        return None
    return saga_id


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - tests replace calls of `os`


def _quarantine(path: Path) -> Path:
    """Give the file at *path* a second name; a directory, which has one name only, another one."""
    target = path.with_name(f"{path.name}.damaged")
    with storage_errors("quarantine", path):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return Path(move.link_no_clobber(path, target))
        names = map(Path, move.numbered_names(target))
        quarantined = next(name for name in names if not os.path.lexists(name))
        os.rename(path, quarantined)  # noqa: PTH104 - see _unlink
        return quarantined
