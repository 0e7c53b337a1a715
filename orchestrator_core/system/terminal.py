"""
What a deployment asks of a terminal multiplexer, and nothing more.

The protocol is small on purpose: a session is started under an exact name by
one call, looked at, and ended. :mod:`orchestrator_core.system.tmux` keeps it with
real tmux, :class:`orchestrator_core.testing.FakeTerminal` in memory, and one
contract suite holds both to the same behaviour.

Every session carries its *owner*, the cookie of the saga that started it. A
session of the right name with another owner is somebody else's: FOREIGN, and
never touched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import attrs

from orchestrator_core.exceptions import InvalidId, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.system.presence import Presence

__all__ = [
    "Session",
    "SessionState",
    "Terminal",
    "check_argv",
    "check_name",
    "check_owner",
]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_OWNER = re.compile(r"[A-Za-z0-9_.:-]{1,300}")


@attrs.frozen
class Session:
    """A session as the terminal's own listing shows it."""

    name: str
    owner: str | None  #: The cookie it was started with; None if it has none.
    pane_pid: int
    server_pid: int


@attrs.frozen
class SessionState:
    """One look for one session."""

    presence: Presence
    session: Session | None = None  #: What was seen; None when ABSENT or UNKNOWN.
    why: str = ""  #: For UNKNOWN: why we could not ask.


class Terminal(Protocol):
    """Sessions by exact name, on one server."""

    def check(self) -> str:
        """
        Return the terminal's name and version.

        Raises:
            TerminalUnavailable: There is none, or it is too old.
        """
        ...

    def start(self, name: str, *, owner: str, argv: Sequence[str]) -> Session:
        """
        Start a detached session called *name* that runs *argv*, without a shell.

        The name is taken atomically: of several starters exactly one wins. The
        program starts in ``/``, and finds *owner* in ``ORCHESTRATOR_COOKIE``.

        Raises:
            InvalidInput: The name, the owner or an argument cannot be used.
            SessionExists: The name is taken; that session was left alone.
            TerminalUnavailable: There is no usable tmux.
            TerminalTimeout: No answer in time; the session may appear later.
            TerminalError: Any other refusal; there is no session.
        """
        ...

    def inspect(self, name: str, *, owner: str) -> SessionState:
        """Tell whether the session called *name* is there, and ours. Never raises."""
        ...

    def kill(self, name: str, *, owner: str, absent_since: float | None = None) -> Presence:
        """
        End the session called *name* if it is *owner*'s, and tell what was found.

        OURS: it was there and is gone. ABSENT: there was none. FOREIGN: left alone.
        Looking and ending are one act: no other session can slip in between.

        *absent_since* is for who expects it to be gone, since a moment by ``time.monotonic``,
        for good: that none was there after it is answer enough, whoever has seen it.

        Raises:
            InvalidInput: The name or the owner cannot be used.
            TerminalTimeout: No answer in time: unknown.
            TerminalError: The terminal refused.
        """
        ...

    def sessions(self) -> tuple[Session, ...]:
        """
        List all sessions of the server with one call; none if no server runs.

        Raises:
            TerminalTimeout: No answer in time: unknown.
            TerminalError: The terminal could not be asked.
        """
        ...


def check_name(name: str) -> str:
    """
    Return *name*, which a terminal takes as it is.

    tmux executes ``#(...)`` in a name, and rewrites ``.``, ``:`` and newlines.

    Raises:
        InvalidId: It could mean something else than itself.
    """
    if not _NAME.fullmatch(name):
        raise InvalidId(
            f"{name[:40]!r} cannot name a session", hint="use 1 to 200 of A-Z a-z 0-9 _ -"
        )
    return name


def check_owner(owner: str) -> str:
    """
    Return *owner*, in which nothing means anything to a terminal's formats.

    Raises:
        InvalidInput: Something does.
    """
    if not _OWNER.fullmatch(owner):
        raise InvalidInput(
            f"{owner[:40]!r} cannot own a session", hint="use 1 to 300 of A-Z a-z 0-9 _ . : -"
        )
    return owner


def check_argv(argv: Sequence[str]) -> Sequence[str]:
    """
    Return *argv*, which a program can be given.

    Raises:
        InvalidInput: There is no program, or an argument holds a NUL.
    """
    if not argv or not argv[0]:
        raise InvalidInput("a session needs a program to run")
    if any("\0" in arg for arg in argv):
        raise InvalidInput("an argument holds a NUL, which no program can be given")
    return argv
