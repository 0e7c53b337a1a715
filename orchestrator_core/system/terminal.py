"""
What a deployment needs of a terminal multiplexer.

The protocol is small: one call starts a session under an exact name, one inspects it, one
kills it. :mod:`orchestrator_core.system.tmux` implements it with real tmux,
:class:`orchestrator_core.testing.FakeTerminal` in memory. One contract suite tests both.

Every session carries its *owner*, the cookie of the saga that started it. A session with the
right name and another owner is FOREIGN and never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.system.presence import Presence


@attrs.frozen
class Session:
    """A session as the terminal lists it."""

    name: str
    owner: str | None  #: The cookie it was started with; None if it has none.
    pane_pid: int
    server_pid: int


@attrs.frozen
class SessionState:
    """The result of one inspection of one session."""

    presence: Presence
    session: Session | None = None  #: None if it is ABSENT or UNKNOWN.
    why: str = ""  #: Why it is UNKNOWN.


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

        The name is taken atomically: of several concurrent calls exactly one succeeds. The
        program starts in ``/`` with *owner* in ``ORCHESTRATOR_COOKIE``.

        Raises:
            InvalidInput: The name, the owner or an argument cannot be used.
            SessionExists: The name is taken; its session was left alone.
            TerminalUnavailable: There is no usable tmux.
            TerminalTimeout: No answer in time; the session may appear later.
            TerminalError: Any other refusal; there is no session.
        """
        ...

    def inspect(self, name: str, *, owner: str) -> SessionState:
        """Return whether the session called *name* exists and has this *owner*. Never raises."""
        ...

    def kill(self, name: str, *, owner: str) -> Presence:
        """
        Kill the session called *name* if it has this *owner*, and return what was found.

        OURS: it existed and is gone. ABSENT: it did not exist. FOREIGN: it was left alone.
        Comparison and kill are one atomic action.

        Raises:
            InvalidInput: The name or the owner cannot be used.
            TerminalTimeout: No answer in time; the state is unknown.
            TerminalError: The terminal refused.
        """
        ...

    def sessions(self) -> tuple[Session, ...]:
        """
        Return all sessions of the server by one call; none if no server runs.

        Raises:
            TerminalTimeout: No answer in time; the state is unknown.
            TerminalError: The terminal refused.
        """
        ...
