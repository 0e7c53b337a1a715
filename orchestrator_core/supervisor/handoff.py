"""
Relief: where a resident sweeper is awake, it unwinds our agent sooner than we could.

The unwinder that a supervisor becomes has Python and our modules to load first. The
sweeper has them loaded. So we tell it, by closing the journal as if it had been
written, and give it a moment to take over, which shows in its SIGTERM. If that does not
come, whatever the sweeper is at, we go on as if there were none.
"""

from __future__ import annotations

import fcntl
import os

HANDOFF_TIMEOUT_S = 1.0  #: What a sweeper takes, many times over.


def sweeper_is_running(lock: str | None) -> bool:
    """Tell whether a sweeper holds its *lock*: then it is alive, and awake for all we know."""
    if lock is None:
        return False
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # There never was one.
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def notify_sweeper(journal: str) -> None:
    """Have the journal looked at: to close it after writing is an event, and changes nothing."""
    try:
        os.close(os.open(journal, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        pass  # Moved: somebody has closed the saga.
