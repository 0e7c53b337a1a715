"""
The processes that belong to an agent.

The evidence is the union of three relations: the agent's cookie in the environment, descent
from a process with the cookie, and the POSIX session of a process with such evidence. The
text of a command line is no evidence, nor is the name of a process in a file: the supervisor
and the agent's main process, which files name, must have the cookie, too. For an agent
without cookie and supervisor, the caller names processes found by other evidence as the
selector's *extra_roots*.

Some processes are protected whatever the evidence: the calling process and its ancestors,
init, and a tmux server that serves other sessions, or its new forks.

An agent in another pid or time namespace cannot be seen from here. It is out of sight while
its supervisor holds the run lock; without a holder it is dead, and nothing of it is here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk, OutOfSight
from orchestrator_core.supervisor import launch, run_lock
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes import cgroups, exit_record, identity, open_files, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector
    from orchestrator_core.system.processes.table import Row

_RESERVED_PIDS = {0, 1, 2}  #: The kernel's processes and init.
_SCANS = 5  #: A process has no command line for an instant, while it becomes another program.


def owned_rows(selector: OwnershipSelector) -> list[Row]:
    """Return the living processes that *selector* covers and that may be ended, newest first."""
    named = _root_identities(selector)
    snapshot = _ProcessSnapshot(table.snapshot())
    roots = {root for root in named if snapshot.is_proved(root, selector)}
    known_sessions = {root.pid for root in roots}
    found = {row.pid for row in snapshot.rows if row.cookie == selector.cookie}
    found |= {root.pid for root in roots if snapshot.contains(root)}
    found |= snapshot.sessions_of_dead_leaders({root.pid for root in selector.extra_roots})
    while found and (more := snapshot.expand(found, known_sessions) - found):
        found |= more
    return [
        row
        for row in snapshot.rows
        if row.pid in found and not snapshot.is_protected(row, selector)
    ]


def includes_self(selector: OwnershipSelector) -> bool:
    """
    Return whether the calling process would be ended with what *selector* covers.

    Raises:
        OutOfSight: The agent lives in another namespace.
    """
    if is_supervisor(selector):
        return False
    if os.environ.get(table.COOKIE_NAME) == selector.cookie:
        return True
    if selector.cgroup is not None and cgroups.includes_self(selector.cgroup):
        return True
    _root_identities(selector)  # Raises if this process cannot see them.
    return any(
        row.cookie == selector.cookie or row.identity in selector.extra_roots
        for row in _own_ancestors()
    )


def is_supervisor(selector: OwnershipSelector) -> bool:
    """Return whether the calling process is the agent's supervisor that became its unwinder."""
    supervisor = selector.supervisor
    if supervisor is None or supervisor.boot_id != boot_id():
        return False
    return supervisor.pid == os.getpid() and identity.is_visible(supervisor)


def find_supervisor(selector: OwnershipSelector) -> Identity | None:
    """
    Return the agent's living supervisor, which no record names; None if it is dead.

    It is the process whose command line is a supervisor's, with the agent's run directory; or
    an unwinder's that has inherited the run lock.

    Raises:
        CouldNotAsk: The run lock is held, and no supervisor is found: it is out of sight.
    """
    if selector.run_dir is None:
        return None
    for _ in range(_SCANS):
        found = _visible_supervisor(selector.run_dir)
        if found is not None or not run_lock.is_held(selector.run_dir):
            return found
    raise CouldNotAsk(
        f"a supervisor holds the lock of {selector.run_dir}, and none can be seen from here",
        hint=OutOfSight.default_hint,
    )


def _visible_supervisor(run_dir: str) -> Identity | None:
    launch_path, agent_id = f"{run_dir}/launch", os.path.basename(run_dir)  # noqa: PTH119 - one name
    for row in table.snapshot():
        argv = table.command_line(row.pid)
        if argv[-1:] == [launch_path] and launch.BOOTSTRAP in argv:
            return row.identity
        is_unwinder = argv[-2:] == [launch.UNWIND, agent_id]
        if is_unwinder and open_files.has_open(row.pid, run_dir):
            return row.identity
    return None


def _root_identities(selector: OwnershipSelector) -> set[Identity]:
    """
    Return the supervisor, the agent and the extra roots, as far as they are known.

    Raises:
        OutOfSight: One of them is in another namespace, and not certainly dead.
    """
    started = exit_record.read_start_record(selector.run_dir)
    known = (selector.supervisor, started.identity if started else None, *selector.extra_roots)
    roots = {root for root in known if root is not None and root.boot_id == boot_id()}
    visible = {root for root in roots if identity.is_visible(root)}
    if visible != roots and not has_free_run_lock(selector):
        for root in roots - visible:
            identity.check_visible(root)
    return visible


def has_free_run_lock(selector: OwnershipSelector) -> bool:
    """Return whether it is certain that no supervisor of this release holds the run lock."""
    return selector.run_dir is not None and run_lock.is_free(selector.run_dir)


def surviving_rows(selector: OwnershipSelector) -> list[Row]:
    """
    Return processes of the agent that no scan finds, and that are alive: privileged ones.

    A process of another user hides its environment, and may have lost its parent. Its names are
    the survivors of an earlier end, those in the supervisor's exit record, and the POSIX session
    of the agent if its supervisor was killed. The agent may have written these files. So such a
    process is named and never signalled, and an older process than the supervisor is no survivor.
    """
    record = exit_record.read_exit_record(selector.exit_file)
    named = {(each.pid, each.started) for each in selector.survivors if identity.is_visible(each)}
    named |= set(record.survivors) if record is not None else set()
    found = [table.get(pid) for pid, _ in named]
    rows = [row for row in found if row is not None and (row.pid, row.started) in named]
    started = exit_record.read_start_record(selector.run_dir)
    if record is None and started is not None:
        rows += [row for row in table.snapshot() if row.sid == started.pid]
    since = 0 if selector.supervisor is None else selector.supervisor.started
    own = os.getpid()
    return [row for row in rows if row.started >= since and row.pid != own]


def _own_ancestors() -> Iterator[Row]:
    """Return the calling process and its ancestors below init."""
    pid = os.getpid()
    while pid > 1 and (row := table.get(pid)) is not None:
        yield row
        pid = row.ppid


class _ProcessSnapshot:
    """One scan of all processes, with the relations between them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._by_pid = {row.pid: row for row in rows}
        self._own_pid = os.getpid()
        self._own_ancestors = set[int]()
        pid = self._own_pid
        while pid in self._by_pid:
            self._own_ancestors.add(pid)
            pid = self._by_pid[pid].ppid

    def contains(self, identity: Identity) -> bool:
        """Return whether the process with *identity* is alive."""
        row = self._by_pid.get(identity.pid)
        return row is not None and row.identity == identity

    def is_proved(self, root: Identity, selector: OwnershipSelector) -> bool:
        """
        Return whether a root is the agent's by more than the files that name it.

        Files below the root directory prove nothing: the agent may have written them.
        """
        row = self._by_pid.get(root.pid)
        if row is None or row.identity != root or root in selector.extra_roots:
            return True  # It is dead, or proved by the caller.
        return row.cookie == selector.cookie or table.bears_cookie(root, selector.cookie)

    def expand(self, found: set[int], known_sessions: set[int]) -> set[int]:
        """Return the children of *found*, and the members of the sessions that are theirs."""
        parents = {pid for pid in found - {self._own_pid} if not self._by_pid[pid].is_tmux_server}
        sessions = self._sessions(found, known_sessions)
        return {row.pid for row in self.rows if row.ppid in parents or row.sid in sessions}

    def sessions_of_dead_leaders(self, leaders: set[int]) -> set[int]:
        """
        Return the members of the sessions of those *leaders* that have ended.

        The kernel does not reuse a leader's pid while its session lasts.
        """
        ended = leaders - self._by_pid.keys() - _RESERVED_PIDS
        return {row.pid for row in self.rows if row.sid in ended}

    def _sessions(self, found: set[int], known: set[int]) -> set[int]:
        """
        Return the sessions of *found* whose leader is in *found* or *known*.

        A session with another leader may be a person's shell.
        """
        own = self._by_pid[self._own_pid].sid if self._own_pid in self._by_pid else 0
        sessions = {self._by_pid[pid].sid for pid in found} & (found | known)
        return sessions - _RESERVED_PIDS - {own}

    def is_protected(self, row: Row, selector: OwnershipSelector) -> bool:
        """Return whether *row* is left alone whatever the evidence."""
        if row.pid in self._own_ancestors or row.pid in _RESERVED_PIDS or self._is_fork(row):
            return True
        return row.is_tmux_server and (
            row.cookie != selector.cookie or self._serves_other_sessions(row.pid, selector)
        )

    def _is_fork(self, row: Row) -> bool:
        parent = self._by_pid.get(row.ppid)
        return parent is not None and row.is_fork_of(parent)

    def _serves_other_sessions(self, server: int, selector: OwnershipSelector) -> bool:
        """Return whether a pane of the tmux server is the supervisor, or not the agent's."""
        return any(
            pane.identity == selector.supervisor
            or pane.cookie != selector.cookie
            or self._is_fork(pane)
            for pane in self.rows
            if pane.ppid == server
        )
