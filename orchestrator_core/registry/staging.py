"""
Where editions are that are not settled: two files, written by turns.

They are shared memory more than files: only processes that are alive look at them,
and nobody ever waits for them to reach the disk. So nothing is created or renamed
for an edition, which would wait for the disk after all: ext4, for one, begins to
write out a file as soon as it is renamed over another (``auto_da_alloc`` in its
documentation; it was half of the time that a crowd held the lock). An edition is
written over the one before the last, and the last stays whole: who is killed in
the middle spoils nothing.

What is in a file is an edition only if that is what it says: its number, the boot,
its length and its checksum come first. After a power failure nothing here counts.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from orchestrator_core.system import durable
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path


class StagingSlots:
    """The two files beside the registry at *path*. Both need the document's lock."""

    def __init__(self, path: Path) -> None:
        self.files = tuple(f"{path.parent}/.{path.name}.next-{n}" for n in range(2))

    def _file(self, number: int) -> str:
        """Return where the edition *number* is, if it is one of the last two."""
        return self.files[number % 2]

    def write(self, number: int, data: bytes) -> None:
        """
        Write the edition *number*; the one before it stays.

        Raises:
            StorageError: Refused; the one before it stays.
        """
        slot = self._file(number)
        with storage_errors("write", slot):
            fd = durable.open_private(slot, os.O_WRONLY | os.O_CREAT)
            try:
                durable.write_all(fd, _head(number, data) + data)
            finally:
                os.close(fd)

    def read(self, number: int) -> bytes | None:
        """
        Return the edition *number*; None if it is not here, whole, and of this boot.

        Raises:
            StorageError: Refused.
        """
        try:
            found = durable.read(self._file(number))
        except FileNotFoundError:
            return None
        head, _, rest = found.partition(b"\n")
        length = head.rpartition(b" ")[2]
        data = rest[: int(length)] if length.isdigit() else b""
        return data if head + b"\n" == _head(number, data) else None


def _head(number: int, data: bytes) -> bytes:
    return b"%d %s %08x %d\n" % (number, boot_id().encode(), zlib.crc32(data), len(data))
