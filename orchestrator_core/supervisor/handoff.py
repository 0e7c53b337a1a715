"""
Handoff: a running sweeper unwinds the agent sooner than the supervisor could.

The unwinder that a supervisor becomes must first load Python and this library; a sweeper
has them loaded. The supervisor notifies the sweeper by closing the journal after it was
open for writing, which is an inotify event. It then waits at most
:data:`HANDOFF_TIMEOUT_S` for the sweeper's SIGTERM, which means that the sweeper has taken
over. Without one, the supervisor becomes the unwinder.
"""

from __future__ import annotations

import fcntl
import posix

HANDOFF_TIMEOUT_S = 1.0  #: An idle sweeper takes a few milliseconds.


def sweeper_is_running(lock: str | None) -> bool:
    """Return whether a process holds the sweeper's *lock*."""
    if lock is None:
        return False
    try:
        flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
        fd = posix.open(lock, flags)
    except OSError:
        return False  # No sweeper has ever run.
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        posix.close(fd)


def notify_sweeper(journal: str) -> None:
    """Open the journal for writing and close it, which is an event and changes nothing."""
    try:
        posix.close(posix.open(journal, posix.O_WRONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC))
    except OSError:
        pass  # The journal was moved: the saga is closed.
