"""
The tmux server that has the legacy system's sessions: the user's default server.

The library asks the server for two things only: to list its sessions, and to end exactly
one of them. It never starts the server and changes no option. A person may reuse a session's
name between a listing and an end, so the server itself compares the session before it kills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Presence


@attrs.frozen(kw_only=True)
class LegacySession:
    """One session of the server. No two sessions have equal fields."""

    name: str
    socket: str  #: Of its server. TMUX_TMPDIR may have changed when the session is ended.
    server_pid: int
    number: int  #: Among all sessions that the server ever had.
    created: int  #: Seconds since 1970.
    panes: tuple[int, ...]  #: The pids of its panes' processes; once proved, of the agent's only.

    @property
    def identity(self) -> tuple[int, int, int]:
        """What identifies the session, whatever its panes."""
        return self.server_pid, self.number, self.created


class LegacyServer(Protocol):
    """The user's default tmux server."""

    def sessions(self) -> tuple[LegacySession, ...]:
        """
        Return all sessions, by one call; none if the server does not run.

        Raises:
            TerminalError: The server could not be asked.
        """
        ...

    def end(self, session: LegacySession) -> Presence:
        """
        End exactly this session, if it still has its first pane; return what was found.

        OURS: the session existed and is gone. ABSENT: no session has its name. FOREIGN:
        another session has its name, and was left alone.

        Raises:
            TerminalError: The server could not be asked.
        """
        ...


def legacy_server(context: RootContext) -> LegacyServer:
    """Return the server of the legacy system's sessions; a fake terminal brings another."""
    given: LegacyServer | None = getattr(context.terminal, "legacy_server", None)
    if given is not None:
        return given
    from orchestrator_core.reconcile.legacy.default_server import DefaultServer  # noqa: PLC0415 - imports libtmux

    return DefaultServer(timeout_s=context.terminal_timeout_s)
