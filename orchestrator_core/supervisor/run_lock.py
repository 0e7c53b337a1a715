"""
The run lock: the kernel lock on an agent's run directory while its supervisor lives.

A process in another pid namespace does not see the supervisor, and cannot distinguish it from
a dead one. A kernel lock is the same in all namespaces. The kernel releases it at the death of
the supervisor, or of the unwinder that the supervisor becomes, also if its container is gone.
"""

from __future__ import annotations

import fcntl
import posix

_FLAGS = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


def hold(run_dir: str) -> None:
    """Hold the lock until this process, or the program that it becomes, has ended."""
    try:
        fd = posix.open(run_dir, _FLAGS)
    except OSError:
        return  # Another process has ended the agent and removed the directory.
    fcntl.flock(fd, fcntl.LOCK_EX)  # A process that asks holds it for a few microseconds.
    posix.set_inheritable(fd, True)  # noqa: FBT003 - no keywords


def is_free(run_dir: str) -> bool:
    """Return whether it is certain that no process holds the lock. The directory must exist."""
    return _try(run_dir) is True


def is_held(run_dir: str) -> bool:
    """Return whether it is certain that a process holds the lock."""
    return _try(run_dir) is False


def _try(run_dir: str) -> bool | None:
    """Return whether the lock can be had; None if there is no such directory, or it is unknown."""
    try:
        fd = posix.open(run_dir, _FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    else:
        return True
    finally:
        posix.close(fd)
