"""
The closed journals, from outside: how each saga ended, without reading its life.

A closed journal is never written again, and its last line holds the report of
the whole unwinding. Ten thousand of them are read in the time that one tmux
command takes to be noticed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidId, JournalDamaged
from orchestrator_core.saga.encoding import decode
from orchestrator_core.saga.report import UnwindReport
from orchestrator_core.system import durable
from orchestrator_core.system.names import check_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.saga.encoding import Entry
    from orchestrator_core.saga.store import JournalStore

_SUFFIX = ".jsonl"
_END = 8192  #: Bytes in which a last line is looked for first.


@attrs.frozen
class Closed:
    """The closed journals of one directory. Whoever reads them owns nothing."""

    path: Path

    @classmethod
    def of(cls, journals: JournalStore) -> Self:
        """Return those of *journals*."""
        return cls(journals.closed)

    def file(self, saga_id: str) -> Path:
        """Return the path of a closed saga's journal."""
        return Path(self._file(saga_id))

    def _file(self, saga_id: str) -> str:
        return f"{self.path}/{check_id('saga id', saga_id)}{_SUFFIX}"

    def ids(self) -> list[str]:
        """Return the ids of all closed sagas, in no order."""
        return [saga_id for saga_id, _ in self._entries()]

    def ended(self) -> dict[str, os.stat_result]:
        """Return the status of each journal by its saga's id; its mtime is when the saga closed."""
        found = {}
        for saga_id, entry in self._entries():
            try:
                found[saga_id] = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # Forgotten by somebody else, just now.
        return found

    def _entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with storage_errors("list", self.path), os.scandir(self.path) as entries:
            for entry in entries:
                saga_id = entry.name.removesuffix(_SUFFIX)
                if saga_id != entry.name and _is_id(saga_id):
                    yield saga_id, entry

    def report(self, saga_id: str) -> UnwindReport:
        """
        Return how a closed saga was unwound.

        Raises:
            FileNotFoundError: There is no closed saga of that id.
            JournalDamaged: Its last line does not tell.
            StorageError: Its journal is no file of ours, or refused.
        """
        last = self._entry(saga_id, _last_line)
        try:
            if last.kind == "close":
                return msgspec.convert(last.data["report"], UnwindReport)
        except (KeyError, msgspec.ValidationError) as error:
            raise JournalDamaged(f"closed saga {saga_id!r}: no report: {error!r}") from error
        raise JournalDamaged(f"closed saga {saga_id!r}: its journal ends with {last.kind!r}")

    def labels(self, saga_id: str) -> dict[str, Any]:
        """Return what a closed saga was labelled with; raises as :meth:`report` does."""
        first = self._entry(saga_id, _first_line)
        labels = first.data.get("labels", {})
        if first.kind != "begin" or not isinstance(labels, dict):
            raise JournalDamaged(f"closed saga {saga_id!r}: its journal has no beginning")
        return labels

    def _entry(self, saga_id: str, line_of: Any) -> Entry:  # noqa: ANN401 - one of two below
        path = self._file(saga_id)
        fd = durable.open_private(path, os.O_RDONLY)
        try:
            with storage_errors("read", path):
                line = line_of(fd)
        finally:
            os.close(fd)
        try:
            return decode(line)
        except ValueError as error:
            raise JournalDamaged(f"closed saga {saga_id!r}: {error}") from error

    def remove(self, saga_id: str) -> int:
        """Remove a journal, and return its bytes; 0 if there was none. Durable: see settle."""
        return durable.remove(self.file(saga_id), durable=False)

    def settle(self) -> None:
        """See all removals to the disk."""
        durable.fsync_directory(self.path)


def _is_id(text: str) -> bool:
    try:
        check_id("saga id", text)
    except InvalidId:
        return False
    return True


def _last_line(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    length = _END
    while True:
        start = max(0, size - length)
        body = os.pread(fd, size - start, start).rstrip(b"\n")
        cut = body.rfind(b"\n")
        if cut >= 0 or start == 0:
            return body[cut + 1 :]
        length *= 8


def _first_line(fd: int) -> bytes:
    length = _END
    while True:
        data = os.pread(fd, length, 0)
        line, newline, _ = data.partition(b"\n")
        if newline or len(data) < length:
            return line
        length *= 8
