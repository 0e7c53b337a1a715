"""
The journal of one saga, in the hands of its owner.

The owner holds a kernel lock on the file. It goes with its holder: a dead owner
is known at once. The file is only ever appended to, and renamed into ``closed/``
at the end, so the lock stays good for as long as there is a saga.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.saga.encoding import encode
from orchestrator_core.system import locks
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.durable import fsync, write_all
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from orchestrator_core.saga.encoding import Entry, ParsedJournal


class Journal:
    """
    A journal that this process owns, open for appending.

    Nobody else can append to it until :meth:`close`, or our death. A process
    forked from ours does not own it.
    """

    if not TYPE_CHECKING:
        __getattr__ = renamed_attributes(
            "Journal", {"append_or_owe": "append_or_queue", "is_ours": "is_owned"}
        )

    def __init__(self, path: str, fd: int, reading: ParsedJournal) -> None:
        self.path = path
        self._fd = fd
        self._end = reading.length
        self._tail_dirty = reading.torn  #: Bytes may follow the end, and count for nothing.
        self._prefix = b"\n" if reading.missing_newline else b""
        self._queued: list[Entry] = []
        self._owner = os.getpid()
        self._closed = False

    def append(self, *entries: Entry, durable: bool = False) -> None:
        """
        Add *entries*, after those that are owed, in one write.

        Once this returns, a crash of ours does not lose them; if *durable*,
        neither does a crash of the machine. If it raises, none of them counts.

        Raises:
            StorageError: The file system refused, or the journal is not ours any more.
        """
        if not self.is_owned:
            raise StorageError(f"journal {self.path} is not ours any more")
        if self._queued:
            entries = (*self._queued, *entries)
        data = self._prefix + encode(entries, timestamp())
        try:
            if self._tail_dirty:
                self._truncate_tail()
            self._tail_dirty = True  # Until all of it is there, whatever interrupts us.
            write_all(self._fd, data, offset=self._end)
            if durable:
                fsync(self._fd)
        except OSError:
            self._try_truncate_tail()
            with storage_errors("write journal", self.path):
                raise
        self._end += len(data)
        self._tail_dirty = False
        self._prefix = b""
        self._queued = []

    def append_or_queue(self, entry: Entry, *, durable: bool = False) -> None:
        """
        Add *entry*, now or before the next one: what happens must not hang on disk space.

        An entry that is still owed when the journal is closed is lost.
        """
        try:
            self.append(entry, durable=durable)
        except StorageError:
            self._queued.append(entry)

    def _truncate_tail(self) -> None:
        """Drop what a write that failed has left, or later lines would stand within it."""
        os.ftruncate(self._fd, self._end)
        self._tail_dirty = False

    def _try_truncate_tail(self) -> None:
        try:
            self._truncate_tail()
        except OSError:
            return  # The next append begins with it.

    @property
    def is_owned(self) -> bool:
        """Whether we own it: it is open, and was opened by this process."""
        return not self._closed and os.getpid() == self._owner

    def close(self) -> None:
        """Let go of the saga, also for processes forked meanwhile. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if os.getpid() == self._owner:
                locks.unlock(self._fd)
        finally:
            os.close(self._fd)
