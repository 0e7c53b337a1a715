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

    from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector
    from orchestrator_core.system.processes.table import Row

_RESERVED_PIDS = {0, 1, 2}  #: The kernel's own, and init.


def owned_rows(claim: OwnershipSelector, *, since: float | None = None) -> list[Row]:
    """
    Return the living processes that *claim* covers and that may be ended, newest first.

    They are those of now, or of any moment after *since*.
    """
    snapshot = _snapshot_of(table.snapshot(since=since))
    roots = _root_identities(claim)
    known_sessions = {root.pid for root in roots}
    found = snapshot.with_cookie(claim.cookie) | {
        root.pid for root in roots if snapshot.contains(root)
    }
    found |= snapshot.sessions_of_dead_leaders({who.pid for who in claim.extra_roots})
    while found and (more := snapshot.expand(found, known_sessions) - found):
        found |= more
    return [row for row in snapshot.rows_of(found) if not snapshot.is_protected(row, claim)]


def includes_self(claim: OwnershipSelector) -> bool:
    """Tell whether the calling process would be ended with what *claim* covers."""
    if is_supervisor(claim):
        return False
    if os.environ.get(table.COOKIE_NAME) == claim.cookie:
        return True
    if claim.cgroup is not None and cgroups.includes_self(claim.cgroup):
        return True
    theirs = {claim.supervisor, *claim.extra_roots}
    return any(row.cookie == claim.cookie or row.identity in theirs for row in _own_line.rows())


def is_supervisor(claim: OwnershipSelector) -> bool:
    """Tell whether the calling process is the agent's supervisor, become its unwinder."""
    who = claim.supervisor
    return who is not None and who.pid == os.getpid() and who.boot_id == boot_id()


def _root_identities(claim: OwnershipSelector) -> set[Identity]:
    """Return the supervisor and the agent, as far as they are known."""
    started = exit_record.read_start_record(claim.run_dir)
    known = (claim.supervisor, started.identity if started else None, *claim.extra_roots)
    return {who for who in known if who is not None and who.boot_id == boot_id()}


class _OwnAncestors:
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
        while pid > 1 and (row := table.get(pid)) is not None:
            yield row
            pid = row.ppid


_own_line = _OwnAncestors()
os.register_at_fork(after_in_child=_own_line.__init__)  # type: ignore[misc]  # a child has another


_last: _ProcessSnapshot | None = None


def _snapshot_of(rows: Sequence[Row]) -> _ProcessSnapshot:
    """Return the snapshot of a pass; many ends that share a pass share its snapshot."""
    global _last  # noqa: PLW0603 - replaced whole, so that threads need no lock
    snapshot = _last
    if snapshot is None or snapshot.all is not rows:
        snapshot = _last = _ProcessSnapshot(rows)
    return snapshot


class _ProcessSnapshot:
    """One pass over all processes, with what can be said of one by looking at the others."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.all = rows
        self._by_pid = {row.pid: row for row in rows}
        self._own_pid = os.getpid()
        self._own_ancestors = set(self._ancestry())
        self._by_cookie: dict[str | None, set[int]] = {}
        for row in rows:
            self._by_cookie.setdefault(row.cookie, set()).add(row.pid)

    def with_cookie(self, cookie: str) -> set[int]:
        """Return those with that cookie in their environment."""
        return set(self._by_cookie.get(cookie, ()))

    def contains(self, who: Identity) -> bool:
        """Tell whether *who* is among them."""
        row = self._by_pid.get(who.pid)
        return row is not None and row.identity == who

    def rows_of(self, pids: set[int]) -> list[Row]:
        """Return the rows of *pids*, newest first."""
        return [row for row in self.all if row.pid in pids] if pids else []

    def expand(self, found: set[int], known_sessions: set[int]) -> set[int]:
        """Return those that are children of *found*, or in a session that is theirs."""
        parents = {pid for pid in found if pid != self._own_pid and not self._is_server(pid)}
        sessions = self._sessions(found, known_sessions)
        return {row.pid for row in self.all if row.ppid in parents or row.sid in sessions}

    def sessions_of_dead_leaders(self, leaders: set[int]) -> set[int]:
        """
        Return those in a session whose leader was one of *leaders*, and has just ended.

        Its number is not given away while its session lasts.
        """
        ended = leaders - self._by_pid.keys() - _RESERVED_PIDS
        return {row.pid for row in self.all if row.sid in ended}

    def _sessions(self, found: set[int], known: set[int]) -> set[int]:
        """
        Return the sessions with one of *found* in them whose leader is found, or *known* to be.

        A session with another leader may be a person's own shell.
        """
        mine = self._by_pid[self._own_pid].sid if self._own_pid in self._by_pid else 0
        theirs = {self._by_pid[pid].sid for pid in found}
        return {
            sid for sid in theirs if sid != mine and (sid in found or sid in known)
        } - _RESERVED_PIDS

    def is_protected(self, row: Row, claim: OwnershipSelector) -> bool:
        """Tell whether *row* is left alone, whatever the evidence."""
        if row.pid in self._own_ancestors or row.pid in _RESERVED_PIDS:
            return True
        if self._is_fork(row):
            return True
        return row.is_tmux_server and (
            row.cookie != claim.cookie or self._serves_other_sessions(row.pid, claim)
        )

    def _is_server(self, pid: int) -> bool:
        return self._by_pid[pid].is_tmux_server

    def _is_fork(self, row: Row) -> bool:
        parent = self._by_pid.get(row.ppid)
        return parent is not None and row.is_fork_of(parent)

    def _serves_other_sessions(self, server: int, claim: OwnershipSelector) -> bool:
        """Tell whether a tmux server has a pane that is the claim's supervisor, or not ours."""
        panes = [row for row in self.all if row.ppid == server]
        return any(
            pane.identity == claim.supervisor or pane.cookie != claim.cookie or self._is_fork(pane)
            for pane in panes
        )

    def _ancestry(self) -> Iterable[int]:
        pid = self._own_pid
        while pid in self._by_pid:
            yield pid
            pid = self._by_pid[pid].ppid
