"""
Reads a registry that the old system may be writing in place.

The old system opened a registry, locked the file itself, and wrote into it. An agent of
the old system may still run a server that does so. Between its calls the file is empty or
cut off, and not damaged. This package only ever replaces the file, and locks a sibling.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 2.0  #: The old system writes for milliseconds.


def read_when_unlocked(path: Path) -> bytes:
    """
    Return the content of a file once no process holds the file's own lock.

    Raises:
        FileNotFoundError: There is none.
        StorageError: A process held the lock for 2 seconds, or the disk refused.
    """
    fd = durable.open_private(path, os.O_RDONLY)
    try:
        with storage_errors("lock", path):
            if locks.lock_within(fd, _TIMEOUT_S):
                return durable.read_all(fd)
    finally:
        os.close(fd)
    raise StorageError(
        f"{path} is being written by another program, which holds its lock",
        hint="if a server of the old system hangs, end it, then try again",
    )
