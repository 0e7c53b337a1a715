"""
Which of all processes are the agent's.

Three kinds of evidence, and their union: the cookie in its environment, descent
from the supervisor or the agent, and the POSIX session of one that is ours. A
text in a command line is no evidence. Of an agent that has neither cookie nor
supervisor, whoever makes the claim has looked for other evidence, and says who
is *known* to be its.

Some are never ours to end, whatever the evidence: the calling process and its
ancestors, init, and a tmux server with somebody else's work in it, or what it
has just forked.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes import cgroups, exit_record, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator_core.system.processes.protocol import Claim, Identity
    from orchestrator_core.system.processes.table import Row

_NEVER = {0, 1, 2}  #: The kernel's own, and init.


def covered(claim: Claim, *, since: float | None = None) -> list[Row]:
    """
    Return the living processes that *claim* covers and that may be ended, newest first.

    They are those of now, or of any moment after *since*.
    """
    view = _view(table.rows(since=since))
    roots = _roots(claim)
    known_sessions = {root.pid for root in roots}
    found = view.marked(claim.cookie) | {root.pid for root in roots if view.shows(root)}
    found |= view.orphans({who.pid for who in claim.known})
    while found and (more := view.related(found, known_sessions) - found):
        found |= more
    return [row for row in view.of(found) if not view.is_spared(row, claim)]


def is_inside(claim: Claim) -> bool:
    """Tell whether the calling process would be ended with what *claim* covers."""
    if is_supervisor(claim):
        return False
    if os.environ.get(table.COOKIE_NAME) == claim.cookie:
        return True
    if claim.cgroup is not None and cgroups.is_inside(claim.cgroup):
        return True
    theirs = {claim.supervisor, *claim.known}
    return any(row.cookie == claim.cookie or row.identity in theirs for row in _lineage.rows())


def is_supervisor(claim: Claim) -> bool:
    """Tell whether the calling process is the agent's supervisor, become its unwinder."""
    who = claim.supervisor
    return who is not None and who.pid == os.getpid() and who.boot_id == boot_id()


def _roots(claim: Claim) -> set[Identity]:
    """Return the supervisor and the agent, as far as they are known."""
    started = exit_record.read_started(claim.run_dir)
    known = (claim.supervisor, started.identity if started else None, *claim.known)
    return {who for who in known if who is not None and who.boot_id == boot_id()}


class _Lineage:
    """
    The calling process and its ancestors, up to init.

    They are looked at again after a moment. Until then one of them may have died:
    what it has started it has started, and we stay below whoever it was below.
    """

    _STAYS_S = 0.5

    def __init__(self) -> None:
        self._seen: tuple[Row, ...] = ()
        self._until = 0.0

    def rows(self) -> tuple[Row, ...]:
        now = time.monotonic()
        if now >= self._until:
            self._seen = tuple(self._look())
            is_whole = bool(self._seen) and self._seen[-1].ppid <= 1
            self._until = now + self._STAYS_S if is_whole else 0.0
        return self._seen

    @staticmethod
    def _look() -> Iterator[Row]:
        pid = os.getpid()
        while pid > 1 and (row := table.row(pid)) is not None:
            yield row
            pid = row.ppid


_lineage = _Lineage()
os.register_at_fork(after_in_child=_lineage.__init__)  # type: ignore[misc]  # a child has another


_last: _View | None = None


def _view(rows: Sequence[Row]) -> _View:
    """Return the view of a pass: the last one's, if it is that, since many ends share a pass."""
    global _last  # noqa: PLW0603 - replaced whole, so that threads need no lock
    view = _last
    if view is None or view.all is not rows:
        view = _last = _View(rows)
    return view


class _View:
    """One pass over all processes, with what can be said of one by looking at the others."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.all = rows
        self._by_pid = {row.pid: row for row in rows}
        self._me = os.getpid()
        self._mine = set(self._ancestry())
        self._by_cookie: dict[str | None, set[int]] = {}
        for row in rows:
            self._by_cookie.setdefault(row.cookie, set()).add(row.pid)

    def marked(self, cookie: str) -> set[int]:
        """Return those with that cookie in their environment."""
        return set(self._by_cookie.get(cookie, ()))

    def shows(self, who: Identity) -> bool:
        """Tell whether *who* is among them."""
        row = self._by_pid.get(who.pid)
        return row is not None and row.identity == who

    def of(self, pids: set[int]) -> list[Row]:
        """Return the rows of *pids*, newest first."""
        return [row for row in self.all if row.pid in pids] if pids else []

    def related(self, found: set[int], known_sessions: set[int]) -> set[int]:
        """Return those that are children of *found*, or in a session that is theirs."""
        parents = {pid for pid in found if pid != self._me and not self._is_server(pid)}
        sessions = self._sessions(found, known_sessions)
        return {row.pid for row in self.all if row.ppid in parents or row.sid in sessions}

    def orphans(self, leaders: set[int]) -> set[int]:
        """
        Return those in a session whose leader was one of *leaders*, and has just ended.

        Its number is not given away while its session lasts.
        """
        ended = leaders - self._by_pid.keys() - _NEVER
        return {row.pid for row in self.all if row.sid in ended}

    def _sessions(self, found: set[int], known: set[int]) -> set[int]:
        """
        Return the sessions with one of *found* in them whose leader is found, or *known* to be.

        A session with another leader may be a person's own shell.
        """
        mine = self._by_pid[self._me].sid if self._me in self._by_pid else 0
        theirs = {self._by_pid[pid].sid for pid in found}
        return {sid for sid in theirs if sid != mine and (sid in found or sid in known)} - _NEVER

    def is_spared(self, row: Row, claim: Claim) -> bool:
        """Tell whether *row* is left alone, whatever the evidence."""
        if row.pid in self._mine or row.pid in _NEVER:
            return True
        if self._is_fork(row):
            return True
        return row.is_tmux_server and (
            row.cookie != claim.cookie or self._hosts_others(row.pid, claim)
        )

    def _is_server(self, pid: int) -> bool:
        return self._by_pid[pid].is_tmux_server

    def _is_fork(self, row: Row) -> bool:
        parent = self._by_pid.get(row.ppid)
        return parent is not None and row.is_fork_of(parent)

    def _hosts_others(self, server: int, claim: Claim) -> bool:
        """Tell whether a tmux server has a pane that is the claim's supervisor, or not ours."""
        panes = [row for row in self.all if row.ppid == server]
        return any(
            pane.identity == claim.supervisor or pane.cookie != claim.cookie or self._is_fork(pane)
            for pane in panes
        )

    def _ancestry(self) -> Iterable[int]:
        pid = self._me
        while pid in self._by_pid:
            yield pid
            pid = self._by_pid[pid].ppid
