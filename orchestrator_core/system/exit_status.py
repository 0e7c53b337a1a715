"""
The exit status of a child process, which a program that ignores SIGCHLD cannot learn.

The kernel then drops the status of every child, and :mod:`subprocess` reports success. Some
programs ignore the signal, and others inherit that from the program that started them.
"""

from __future__ import annotations

import signal

from orchestrator_core.exceptions import CouldNotAsk


def is_dropped() -> bool:
    """Return whether the exit status of each child of this process is lost."""
    return signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN


def require(program: str) -> None:
    """
    Refuse to ask *program* if its exit status would be lost.

    Raises:
        CouldNotAsk: This process ignores SIGCHLD.
    """
    if is_dropped():
        raise CouldNotAsk(
            f"this process ignores SIGCHLD, so the exit status of {program} would be lost",
            hint="first: signal.signal(signal.SIGCHLD, signal.SIG_DFL)",
        )
