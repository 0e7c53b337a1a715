"""
The tmux server on which the old system left its sessions: the user's own.

It is only ever asked two things: which sessions are there, and to end exactly
one of them, which the server itself compares before it kills. It is never
started, nothing of it is set, and what a look has shown is no licence: between
a look and an end a person may have made the name his own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import attrs

from orchestrator_core.saga import Presence

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen(kw_only=True)
class LegacySession:
    """One session of the server, for as long as it lives: no two share all of this."""

    name: str
    socket: str  #: Of its server. Our own TMUX_TMPDIR may be another by the time it is ended.
    server_pid: int
    number: int  #: Which of all sessions that the server ever had.
    created: int  #: Seconds since 1970.
    panes: tuple[int, ...]  #: The pids of its panes' own processes; of the agent's, once proved.


class LegacyServer(Protocol):
    """The user's default tmux server."""

    def sessions(self) -> tuple[LegacySession, ...]:
        """
        Return all of its sessions, by one call; none if it does not run.

        Raises:
            TerminalError: It could not be asked.
        """
        ...

    def end(self, session: LegacySession) -> Presence:
        """
        End exactly this session, if it still has the first of its panes; tell what was found.

        OURS: it was there and is gone. ABSENT: none of that name is there. FOREIGN:
        another of that name is, and was left alone.

        Raises:
            TerminalError: The server could not be asked.
        """
        ...


class NullServer:
    """None: for a world that the old system was never in."""

    def sessions(self) -> tuple[LegacySession, ...]:
        """Return none."""
        return ()

    def end(self, session: LegacySession) -> Presence:  # noqa: ARG002 - the protocol's
        """Find nothing."""
        return Presence.ABSENT


# Neither a session's name nor a number holds a ":". The socket's path, which the
# user has chosen, comes last.
LISTING = (
    "#{pid}:#{session_id}:#{session_created}:#{pane_id}:#{pane_pid}:#{session_name}:#{socket_path}"
)
_LISTED = re.compile(
    r"(?P<server>\d+):\$(?P<number>\d+):(?P<created>\d+):%(?P<pane>\d+):(?P<pid>\d+)"
    r":(?P<name>[^:]+):(?P<socket>/.*)"
)


def parse(lines: Iterable[str]) -> tuple[LegacySession, ...]:
    """Return the sessions of a listing of panes; what is no line of it is not looked at."""
    panes: dict[tuple[int, str, int, int, str], dict[int, int]] = {}
    for line in lines:
        if found := _LISTED.fullmatch(line):
            server, number, created, pane, pid = (
                int(found[key]) for key in ("server", "number", "created", "pane", "pid")
            )
            own = (server, found["name"], number, created, found["socket"])
            panes.setdefault(own, {})[pane] = pid
    return tuple(
        LegacySession(
            name=name,
            socket=socket,
            server_pid=server,
            number=number,
            created=created,
            panes=tuple(pids[pane] for pane in sorted(pids)),
        )
        for (server, name, number, created, socket), pids in panes.items()
    )


def match_format(session: LegacySession) -> str:
    """Return the tmux format that is true of this session only, while its first pane lives."""
    facts = (
        f"#{{==:#{{pid}},{session.server_pid}}}",
        f"#{{==:#{{session_id}},${session.number}}}",
        f"#{{==:#{{session_created}},{session.created}}}",
        f"#{{m:*<{session.panes[0]}>*,#{{W:#{{P:<#{{pane_pid}}>}}}}}}",
    )
    first, *rest = reversed(facts)
    for fact in rest:
        first = f"#{{&&:{fact},{first}}}"
    return first
