"""The user's default tmux server, asked with real tmux."""

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
    The server that a plain ``tmux`` talks to; see :class:`~.server.LegacyServer`.

    ``TMUX_TMPDIR`` in our environment moves it, as it does for tmux.
    """

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s

    def sessions(self) -> tuple[LegacySession, ...]:
        """Return all of its sessions, by one call; none if it does not run."""
        reply = self._at(None).run("list-panes", "-a", "-F", server.LISTING)
        if reply.returncode == 0:
            return server.parse(reply.stdout)
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return ()
        raise _refusal("list the sessions of", reply.stderr)

    def end(self, session: LegacySession) -> Presence:
        """End exactly this session; the server itself compares and kills."""
        ours = server.match_format(session)
        reply = self._at(session.socket).run(*kill_if(check_name(session.name), ours))
        with contextlib.suppress(ValueError, IndexError):
            return Presence(reply.stdout[-1])
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return Presence.ABSENT
        raise _refusal(f"end session {session.name!r} on", reply.stderr)

    def _at(self, socket: str | None) -> TmuxTerminal:
        return TmuxTerminal(socket, timeout_s=self._timeout_s)


def _refusal(what: str, said: list[str]) -> TerminalError:
    return TerminalError(
        f"tmux did not {what} the default server: {'; '.join(said) or 'no message'}",
        hint="does a plain `tmux list-sessions` work for you?",
    )
