"""
Staging slots: two files beside a registry that hold its unflushed versions, by turns.

They serve as shared memory: only live processes read them, and no process waits for
them to reach the disk. A version overwrites the last but one, and the last stays
whole, so a writer that is killed half-way spoils nothing. No file is created or
renamed for a version, since ext4 starts to write a file out as soon as it replaces
another one (``auto_da_alloc`` in its documentation; that was half of the time for
which contending writers held the lock).

A slot's first line holds the version's number, the boot, its length and its checksum.
Its content counts only if all of them match. After a power failure none does.
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


def slot_path(registry: Path, number: int) -> str:
    """Return the slot of version *number* of the registry at that path."""
    return f"{registry.parent}/.{registry.name}.next-{number % 2}"


def write_version(registry: Path, number: int, data: bytes) -> None:
    """
    Write version *number*, with the document's lock held. The version before it stays.

    Raises:
        StorageError: The disk refused; the version before it stays.
    """
    slot = slot_path(registry, number)
    with storage_errors("write", slot):
        fd = durable.open_own(slot, os.O_WRONLY | os.O_CREAT)
        try:
            durable.write_all(fd, _header(number, data) + data)
        finally:
            os.close(fd)


def read_version(registry: Path, number: int) -> bytes | None:
    """
    Return version *number*, with the document's lock held.

    None means that it is not here, incomplete, or of another boot.

    Raises:
        StorageError: The disk refused.
    """
    try:
        content = durable.read(slot_path(registry, number), own=True)
    except FileNotFoundError:
        return None
    header, _, rest = content.partition(b"\n")
    length = header.rpartition(b" ")[2]
    data = rest[: int(length)] if length.isdigit() else b""
    return data if header + b"\n" == _header(number, data) else None


def _header(number: int, data: bytes) -> bytes:
    return b"%d %s %08x %d\n" % (number, boot_id().encode(), zlib.crc32(data), len(data))
