"""Whether a process holds a kernel lock on a file, found out without writing to the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.system import locks

if TYPE_CHECKING:
    from pathlib import Path


def is_locked(path: Path) -> bool:
    """
    Return whether another descriptor holds the exclusive lock on *path*.

    The probe takes a shared lock for an instant. The descriptor is read-only, because the
    close of a writable descriptor would be a file event for the sweeper.

    Raises:
        OSError: The file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return not locks.try_lock_shared(fd)
    finally:
        os.close(fd)
