"""
Reading what another program writes in place.

The system that this one replaces opened a registry, locked the file itself, and
wrote into it. Its agents have servers of that kind and may still be at it: in the
middle of that the file is empty or cut off, and not damaged at all. Ours is only
ever replaced, and the lock of the file itself is none of ours.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 2.0  #: It writes for milliseconds.


def read_when_unlocked(path: Path) -> bytes:
    """
    Return what is in a file when nobody holds its own lock.

    Raises:
        FileNotFoundError: There is none.
        StorageError: Somebody holds the lock for too long, or refused.
    """
    fd = durable.open_private(path, os.O_RDONLY)
    try:
        with storage_errors("lock", path):
            if locks.lock_within(fd, _PATIENCE_S):
                return durable.read_all(fd)
    finally:
        os.close(fd)
    raise StorageError(
        f"{path} is being written by another program, which holds its lock",
        hint="a server of the old system? end it if it hangs, then try again",
    )
