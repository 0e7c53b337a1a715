"""The user's default tmux server, by real tmux."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import TerminalError
from orchestrator_core.reconcile.legacy.server_protocol import LegacySession
from orchestrator_core.saga import Presence
from orchestrator_core.system.names import check_name
from orchestrator_core.system.tmux import ABSENT_ERRORS, TmuxError, TmuxTerminal
from orchestrator_core.system.tmux_commands import kill_if

if TYPE_CHECKING:
    from collections.abc import Iterable

# A session's name and a number contain no ":". The socket's path may, and comes last.
_LISTING = (
    "#{pid}:#{session_id}:#{session_created}:#{pane_id}:#{pane_pid}:#{session_name}:#{socket_path}"
)
_LISTED = re.compile(
    r"(?P<server_pid>\d+):\$(?P<number>\d+):(?P<created>\d+):%(?P<pane>\d+):(?P<pid>\d+)"
    r":(?P<name>[^:]+):(?P<socket>/.*)"
)


class DefaultServer:
    """
    The server that a plain ``tmux`` uses; see :class:`~.server_protocol.LegacyServer`.

    ``TMUX_TMPDIR`` in this process's environment selects the server, as for tmux.
    """

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s

    def sessions(self) -> tuple[LegacySession, ...]:
        """Return all sessions, by one call; none if the server does not run."""
        reply = self._at(None).run("list-panes", "-a", "-F", _LISTING)
        if reply.returncode == 0:
            return parse(reply.stdout)
        if TmuxError.classify(reply) in ABSENT_ERRORS:
            return ()
        raise _error("list the sessions of", reply.stderr)

    def end(self, session: LegacySession) -> Presence:
        """End exactly this session: the server itself compares it, and kills it."""
        is_same = match_format(session)
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


def parse(lines: Iterable[str]) -> tuple[LegacySession, ...]:
    """Return the sessions of a listing of panes; other lines are skipped."""
    panes: dict[LegacySession, dict[int, int]] = {}
    for line in lines:
        if found := _LISTED.fullmatch(line):
            numbers = {name: int(found[name]) for name in ("server_pid", "number", "created")}
            session = LegacySession(name=found["name"], socket=found["socket"], panes=(), **numbers)
            panes.setdefault(session, {})[int(found["pane"])] = int(found["pid"])
    return tuple(
        attrs.evolve(session, panes=tuple(pids[pane] for pane in sorted(pids)))
        for session, pids in panes.items()
    )


def match_format(session: LegacySession) -> str:
    """Return the tmux format that matches only this session, and only with its first pane."""
    facts = (
        f"#{{==:#{{pid}},{session.server_pid}}}",
        f"#{{==:#{{session_id}},${session.number}}}",
        f"#{{==:#{{session_created}},{session.created}}}",
        f"#{{m:*<{session.panes[0]}>*,#{{W:#{{P:<#{{pane_pid}}>}}}}}}",
    )
    return functools.reduce(lambda rest, fact: f"#{{&&:{fact},{rest}}}", reversed(facts))
