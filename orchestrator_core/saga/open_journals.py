"""
The open journals, from outside: what they tell to somebody who owns none of them.

Looking changes nothing, and disturbs nobody: a journal is opened for reading
only, and where it matters whether it has an owner, its lock is tried in the mode
that any number of onlookers can hold at once, for as long as it takes to read it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.exceptions import JournalDamaged, SagaNotFound, StorageError
from orchestrator_core.saga.encoding import parse
from orchestrator_core.saga.history import load_history
from orchestrator_core.saga.preallocation import is_at
from orchestrator_core.system import durable, locks
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from orchestrator_core.saga.history import History
    from orchestrator_core.saga.store import JournalStore

_SUFFIX = ".jsonl"


@attrs.frozen
class Opened:
    """The open journals of one directory. Whoever reads them owns nothing."""

    path: Path
    _read_before: dict[str, tuple[durable.Fingerprint, History]] = attrs.field(
        factory=dict, repr=False
    )

    @classmethod
    def of(cls, journals: JournalStore) -> Self:
        """Return those of *journals*."""
        return cls(journals.path)

    def file(self, saga_id: str) -> str:
        """Return the path of an open saga's journal."""
        return f"{self.path}/{check_id('saga id', saga_id)}{_SUFFIX}"

    def ids(self) -> list[str]:
        """
        Return the ids of all sagas that are not closed, sorted.

        Raises:
            StorageError: The directory cannot be listed.
        """
        with storage_errors("list", self.path):
            names = os.listdir(self.path)  # noqa: PTH208 - names are enough
        found = sorted(
            name.removesuffix(_SUFFIX)
            for name in names
            if name.endswith(_SUFFIX) and is_id(name.removesuffix(_SUFFIX))
        )
        for gone in self._read_before.keys() - found:
            self._read_before.pop(gone, None)  # Others may be looking as well.
        return found

    def history(self, saga_id: str) -> History:
        """
        Read what has happened to an open saga, which may go on meanwhile.

        Nobody may change what is returned: a journal that is the same file, and as long
        as before, is not read again, since it is only ever appended to.

        Raises:
            SagaNotFound: There is no open saga of that id.
            JournalDamaged: Its journal is not whole.
            StorageError: It cannot be read.
        """
        known = self.seen_before(saga_id)
        if known is not None:
            return known
        path = self.file(saga_id)
        fd = _open(path, saga_id)
        try:
            edition = durable.fingerprint(os.fstat(fd))  # Before it is read: it may grow meanwhile.
            history = _read(fd, path, saga_id)
        finally:
            os.close(fd)
        self._read_before[saga_id] = edition, history
        return history

    def seen_before(self, saga_id: str) -> History | None:
        """Return what :meth:`history` would, if it need not be read; None if it must be."""
        return self._known(saga_id, durable.fingerprint_at(self.file(saga_id)))

    def _known(self, saga_id: str, edition: durable.Fingerprint | None) -> History | None:
        known = self._read_before.get(saga_id)
        return known[1] if known is not None and known[0] == edition else None

    def at_rest(self, saga_id: str) -> History | None:
        """
        Read the same, if nobody owns the saga; None if somebody does.

        What it returns was so at one instant, with no owner: nobody was half-way. Nobody may
        change it, either.

        Raises:
            SagaNotFound, JournalDamaged, StorageError: See :meth:`history`.
        """
        path = self.file(saga_id)
        fd = _open(path, saga_id)
        try:
            with storage_errors("lock", path):
                if not locks.try_lock_shared(fd):
                    return None
            try:
                with storage_errors("look at", path):
                    if not is_at(fd, path):
                        raise SagaNotFound(f"there is no open saga {saga_id!r} any more")
                    edition = durable.fingerprint(os.fstat(fd))
                return self._known(saga_id, edition) or _read(fd, path, saga_id)
            finally:
                locks.unlock(fd)  # Also for processes that were forked meanwhile.
        finally:
            os.close(fd)


def _open(path: str, saga_id: str) -> int:
    try:
        return durable.open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        raise SagaNotFound(f"there is no open saga {saga_id!r}") from None
    except StorageError as error:
        if Path(path).is_file() and not Path(path).is_symlink():
            raise
        raise JournalDamaged(f"journal {path} is no regular file") from error


def _read(fd: int, path: str, saga_id: str) -> History:
    with storage_errors("read journal", path):
        data = durable.read_all(fd)
    return load_history(parse(data), saga_id)
