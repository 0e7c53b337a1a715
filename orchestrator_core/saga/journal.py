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
from orchestrator_core.system.durable import fsync, write_all
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from orchestrator_core.saga.encoding import Entry, Reading


class Journal:
    """
    A journal that this process owns, open for appending.

    Nobody else can append to it until :meth:`close`, or our death. A process
    forked from ours does not own it.
    """

    def __init__(self, path: str, fd: int, reading: Reading) -> None:
        self.path = path
        self._fd = fd
        self._end = reading.length
        self._unclean = reading.torn  #: Bytes may follow the end, and count for nothing.
        self._lead = b"\n" if reading.unended else b""
        self._owed: list[Entry] = []
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
        if not self.is_ours:
            raise StorageError(f"journal {self.path} is not ours any more")
        if self._owed:
            entries = (*self._owed, *entries)
        data = self._lead + encode(entries, timestamp())
        try:
            if self._unclean:
                self._cut()
            self._unclean = True  # Until all of it is there, whatever interrupts us.
            write_all(self._fd, data, offset=self._end)
            if durable:
                fsync(self._fd)
        except OSError:
            self._cut_if_possible()
            with storage_errors("write journal", self.path):
                raise
        self._end += len(data)
        self._unclean = False
        self._lead = b""
        self._owed = []

    def append_or_owe(self, entry: Entry, *, durable: bool = False) -> None:
        """
        Add *entry*, now or before the next one: what happens must not hang on disk space.

        An entry that is still owed when the journal is closed is lost.
        """
        try:
            self.append(entry, durable=durable)
        except StorageError:
            self._owed.append(entry)

    def _cut(self) -> None:
        """Drop what a write that failed has left, or later lines would stand within it."""
        os.ftruncate(self._fd, self._end)
        self._unclean = False

    def _cut_if_possible(self) -> None:
        try:
            self._cut()
        except OSError:
            return  # The next append begins with it.

    @property
    def is_ours(self) -> bool:
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
