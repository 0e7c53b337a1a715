"""
The journal: one append-only file of JSON lines for each saga.

Every line ends in a checksum of what stands before it. A last line that is
torn is the normal end of a crash: it was never acknowledged, and is cut off.
A line that does not check *before* the last one is damage, and is raised.

The owner of a saga holds a kernel lock on its journal. The file is never
replaced, only renamed into ``closed/`` at the end, so the lock stays good, and
it goes with its holder: a dead owner is known at once.

A new file is durable only when its directory is, too. To keep that fsync out
of the way of a saga's start, an empty *spare* lies ready, made durable when
there was time, and is renamed when it is needed (etcd's file pipeline and
PostgreSQL's recycled segments do the same).
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from orchestrator_core import _files, locks
from orchestrator_core._clock import timestamp
from orchestrator_core.exceptions import (
    JournalDamaged,
    SagaBusy,
    SagaExists,
    SagaNotFound,
    StorageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

SUFFIX = ".jsonl"
_SPARE = ".spare"
_CRC = b',"crc":"'
_TAIL = len(_CRC) + 8 + len(b'"}')


@attrs.frozen
class Entry:
    """One line of a journal: its kind, and what it says."""

    kind: str
    data: dict[str, Any]


def encode(kind: str, data: dict[str, Any]) -> bytes:
    """Return a journal line: ``kind`` first, the checksum last."""
    body = msgspec.json.encode({"kind": kind, **data})[:-1]
    return b'%s%s%08x"}\n' % (body, _CRC, zlib.crc32(body))


def decode(line: bytes) -> Entry:
    """
    Return what a line says.

    Raises:
        ValueError: It does not check, or is no journal line.
    """
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if tail != b'%s%08x"}' % (_CRC, zlib.crc32(body)):
        raise ValueError("the checksum does not match")
    data = msgspec.json.decode(body + b"}")
    return Entry(data.pop("kind"), data)


@attrs.frozen
class Reading:
    """What a journal file holds."""

    entries: tuple[Entry, ...]
    length: int  #: Bytes up to the end of the last good line.
    torn: bool  #: Whether bytes follow that are no whole line.
    damaged: tuple[int, ...] = ()  #: Numbers of lines, from 1, that do not check.


def parse(data: bytes) -> Reading:
    """Read a journal's bytes. Damage is told, not raised: see :func:`check`."""
    entries: list[Entry] = []
    damaged: list[int] = []
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entries.append(decode(line))
        except (ValueError, KeyError, AttributeError, msgspec.DecodeError):
            damaged.append(number)
    whole = _unended(rest)
    if whole is not None:
        entries.append(whole)
        damaged.append(len(lines) + 1)
    return Reading(tuple(entries), len(data) - len(rest), torn=bool(rest), damaged=tuple(damaged))


def _unended(rest: bytes) -> Entry | None:
    """
    Return the last line if only its end is wrong.

    It was written whole, and may have been acknowledged: a commit that lost its
    newline must not pass for a crash before it.
    """
    for line in (rest, rest[:-1]):
        try:
            return decode(line)
        except (ValueError, KeyError, AttributeError, msgspec.DecodeError):
            continue
    return None


def check(reading: Reading, path: Path) -> Reading:
    """
    Return *reading* if it is whole.

    Raises:
        JournalDamaged: A line before the last one does not check.
    """
    if reading.damaged:
        raise JournalDamaged(f"journal {path}: line {reading.damaged[0]} is damaged")
    return reading


class Journal:
    """
    A journal that this process owns, open for appending.

    Nobody else can append to it until :meth:`close`, or our death.
    """

    def __init__(self, path: Path, fd: int, reading: Reading, *, durable_name: bool = True) -> None:
        self.path = path
        self.entries = list(reading.entries)
        self._fd = fd
        self._end = reading.length
        self._durable_name = durable_name
        self._closed = False

    def append(self, *entries: Entry, durable: bool = False) -> None:
        """
        Add *entries* in one write.

        Once this returns, a crash of ours does not lose them; if *durable*,
        neither does a crash of the machine. If it raises, none of them is there.

        Raises:
            StorageError: The file system refused.
        """
        now = timestamp()
        data = b"".join(encode(entry.kind, {**entry.data, "at": now}) for entry in entries)
        try:
            with _files.refusals("write journal", self.path):
                _files.write_all(self._fd, data, offset=self._end)
                if durable:
                    self._sync()
        except StorageError:
            self._cut()
            raise
        self._end += len(data)
        self.entries.extend(entries)

    def _sync(self) -> None:
        os.fsync(self._fd)
        if not self._durable_name:
            _files.fsync_directory(self.path.parent)
            self._durable_name = True

    def _cut(self) -> None:
        """Drop what a failed write left behind; at worst it stays, a torn last line."""
        try:
            os.ftruncate(self._fd, self._end)
        except OSError:
            return

    def close(self) -> None:
        """Let go of the saga. Idempotent."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    @property
    def is_open(self) -> bool:
        """Whether we still own it."""
        return not self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@attrs.frozen
class JournalDirectory:
    """The journals of all sagas of one place: open ones, and ``closed/``."""

    path: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """Make the directories if they are missing, and lay a spare ready."""
        directory = cls(Path(path))
        _files.make_directory(directory.closed)
        directory._lay_spare(sync=True)
        return directory

    @property
    def closed(self) -> Path:
        """Where the journals of closed sagas go."""
        return self.path / "closed"

    def file(self, saga_id: str) -> Path:
        """Return the path of an open saga's journal."""
        return self.path / f"{saga_id}{SUFFIX}"

    def closed_file(self, saga_id: str) -> Path:
        """Return the path of a closed saga's journal."""
        return self.closed / f"{saga_id}{SUFFIX}"

    def ids(self) -> list[str]:
        """Return the ids of all sagas that are not closed, oldest name first."""
        self._adopt_spare()
        return sorted(self._names(self.path))

    def closed_ids(self) -> Iterator[str]:
        """Return the ids of the closed sagas, in no order."""
        return self._names(self.closed)

    def _names(self, directory: Path) -> Iterator[str]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    yield entry.name.removesuffix(SUFFIX)

    def create(self, saga_id: str) -> Journal:
        """
        Return a new, empty journal that we own.

        Raises:
            SagaExists: The id was used before.
            StorageError: The file system refused.
        """
        if self.closed_file(saga_id).exists():
            raise SagaExists(f"there was a saga {saga_id!r} already; it is closed")
        path = self.file(saga_id)
        fd = self._claim_spare(path)
        if fd is not None:
            return Journal(path, fd, Reading((), 0, torn=False))
        try:
            fd = _files.open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise SagaExists(f"there is a saga {saga_id!r} already") from None
        locks.try_lock(fd)
        return Journal(path, fd, Reading((), 0, torn=False), durable_name=False)

    def open(self, saga_id: str, *, timeout_s: float = 0.0) -> Journal:
        """
        Return the journal of an open saga, owned by us from now on.

        A torn last line is cut off.

        Raises:
            SagaNotFound: There is no open saga of that id.
            SagaBusy: Its owner is alive, and did not let go within *timeout_s*.
            JournalDamaged: A line before the last one does not check.
        """
        path = self.file(saga_id)
        fd = self._own(saga_id, path, timeout_s)
        try:
            reading = check(parse(_files.read_all(fd)), path)
            if reading.torn:
                os.ftruncate(fd, reading.length)
        except BaseException:
            os.close(fd)
            raise
        return Journal(path, fd, reading)

    def _own(self, saga_id: str, path: Path, timeout_s: float) -> int:
        try:
            fd = _files.open_private(path, os.O_RDWR)
        except FileNotFoundError:
            raise SagaNotFound(f"there is no open saga {saga_id!r}") from None
        if not locks.lock_within(fd, timeout_s):
            os.close(fd)
            raise SagaBusy(f"saga {saga_id!r} is being worked on by somebody else")
        if not _is_at(fd, path):
            # It was closed and moved away while we waited.
            os.close(fd)
            raise SagaNotFound(f"saga {saga_id!r} is closed")
        return fd

    def read(self, saga_id: str) -> Reading:
        """
        Read a saga's journal, open or closed, without owning it.

        Raises:
            SagaNotFound: There is none.
        """
        # Closing renames it once: what is in neither place at two looks is nowhere.
        for path in (self.file(saga_id), self.closed_file(saga_id), self.file(saga_id)):
            try:
                return parse(_files.read(path))
            except FileNotFoundError:
                continue
        raise SagaNotFound(f"there is no saga {saga_id!r}")

    def retire(self, journal: Journal) -> None:
        """
        Move a closed saga's journal to ``closed/``.

        If the machine dies before the rename is durable, recovery finds a closed
        saga among the open ones, and retires it again.
        """
        with _files.refusals("retire journal", journal.path):
            os.rename(journal.path, self.closed / journal.path.name)  # noqa: PTH104 - see _files
        self._lay_spare(sync=False)
        _files.fsync_directory(self.path)
        journal.close()

    def discard(self, journal: Journal) -> None:
        """Remove the journal of a saga that has taken nothing."""
        journal.path.unlink(missing_ok=True)
        journal.close()

    def set_aside(self, saga_id: str, entries: Iterable[Entry]) -> tuple[Path, Journal]:
        """
        Keep a damaged journal under another name, and go on with *entries* in its place.

        Returns where the damaged file is now, and the new journal, owned by us.

        Raises:
            SagaBusy: Its owner is alive: it will see to it.
        """
        path = self.file(saga_id)
        fd = self._own(saga_id, path, 0.0)
        try:
            kept = _files.move_no_clobber(path, path.with_name(f"{path.name}.damaged"))
        finally:
            os.close(fd)
        journal = self.create(saga_id)
        journal.append(*entries, durable=True)
        return kept, journal

    def _lay_spare(self, *, sync: bool) -> None:
        try:
            os.close(_files.open_private(self._spare, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        except (FileExistsError, StorageError):
            return  # There is one, or there can be none: then create() fsyncs for itself.
        if sync:
            _files.fsync_directory(self.path)

    def _claim_spare(self, path: Path) -> int | None:
        """Rename the spare to *path* and own it; None if there is none to be had."""
        try:
            fd = _files.open_private(self._spare, os.O_RDWR)
        except (FileNotFoundError, StorageError):
            return None
        # Owned before it has a name that others look at, or somebody would recover it.
        if not (locks.try_lock(fd) and _is_at(fd, self._spare) and _is_untouched(fd)):
            os.close(fd)
            return None
        try:
            os.link(self._spare, path)
        except FileExistsError:
            os.close(fd)
            raise SagaExists(f"there is a saga {path.stem!r} already") from None
        self._spare.unlink()
        return fd

    def _adopt_spare(self) -> None:
        """
        Finish a claim that a crash interrupted.

        The spare's content may be durable while its new name is not, and the new
        name may be there beside the old one.
        """
        try:
            fd = _files.open_private(self._spare, os.O_RDWR)
        except (FileNotFoundError, StorageError):
            return
        try:
            if _is_untouched(fd) or not (locks.try_lock(fd) and _is_at(fd, self._spare)):
                return
            entries = parse(_files.read_all(fd)).entries
            if entries and os.fstat(fd).st_nlink == 1:
                os.link(self._spare, self.file(str(entries[0].data["saga"])))
            self._spare.unlink()
        finally:
            os.close(fd)

    @property
    def _spare(self) -> Path:
        return self.path / _SPARE


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _is_untouched(fd: int) -> bool:
    status = os.fstat(fd)
    return status.st_size == 0 and status.st_nlink == 1
