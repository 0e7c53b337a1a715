"""The user's default tmux server, by real tmux."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import TerminalError
from orchestrator_core.reconcile.legacy import server_protocol as server
from orchestrator_core.saga import Presence
from orchestrator_core.system.terminal import check_name
from orchestrator_core.system.tmux import ABSENT_ERRORS, TmuxError, TmuxTerminal, kill_if

if TYPE_CHECKING:
    from orchestrator_core.reconcile.legacy.server_protocol import LegacySession


class DefaultServer:
    """
    The server that a plain ``tmux`` uses; see :class:`~.server_protocol.LegacyServer`.

    ``TMUX_TMPDIR`` in this process's environment selects the server, as for tmux.
    """

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s

    def sessions(self) -> tuple[LegacySession, ...]:
        """Return all sessions, by one call; none if the server does not run."""
        reply = self._at(None).run("list-panes", "-a", "-F", server.LISTING)
        if reply.returncode == 0:
            return server.parse(reply.stdout)
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return ()
        raise _error("list the sessions of", reply.stderr)

    def end(self, session: LegacySession) -> Presence:
        """End exactly this session: the server itself compares it, and kills it."""
        is_same = server.match_format(session)
        reply = self._at(session.socket).run(*kill_if(check_name(session.name), is_same))
        with contextlib.suppress(ValueError, IndexError):
            return Presence(reply.stdout[-1])
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return Presence.ABSENT
        raise _error(f"end session {session.name!r} on", reply.stderr)

    def _at(self, socket: str | None) -> TmuxTerminal:
        return TmuxTerminal(socket, timeout_s=self._timeout_s)


def _error(action: str, stderr: list[str]) -> TerminalError:
    return TerminalError(
        f"tmux did not {action} the default server: {'; '.join(stderr) or 'no message'}",
        hint="does a plain `tmux list-sessions` work for you?",
    )
