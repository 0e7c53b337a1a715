"""
The end of everything an agent started, and how far it is proved.

The supervisor is asked first: it is above them all and sees what no scan does.
Whatever is left is then ended from here, gently, then by force, in rounds,
until a whole pass over the machine finds nothing of the agent. Each wait is on
the processes themselves, and has its deadline.
"""

from __future__ import annotations

import contextlib
import select
import signal
import time
from typing import TYPE_CHECKING

from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes import cgroups, exit_record, ownership, table
from orchestrator_core.system.processes.identity import dead_since, open_handle, wait_readable
from orchestrator_core.system.processes.protocol import Survivor, TerminationResult

if TYPE_CHECKING:
    from orchestrator_core.system.processes.protocol import (
        GracePeriods,
        Identity,
        OwnershipSelector,
    )
    from orchestrator_core.system.processes.table import Row

_EXTRA_S = 0.5  #: For the supervisor to say so; and the least that a SIGKILL is given.
_TERM_ROUNDS = 4  #: Who is new in each of so many rounds forks ahead of us, and is not leaving.
_HELD_AT_ONCE = 200  #: Well below the usual limit of open files.


def terminate_all(
    claim: OwnershipSelector, patience: GracePeriods, *, accepted_proofs: frozenset[str]
) -> TerminationResult:
    """
    End everything that *claim* covers, gently first, and prove it.

    *accepted_proofs* holds the proofs that count besides the scan: "cgroup", "subreaper".
    Called from inside of what it would end, it signals nobody and proves nothing.
    """
    began = time.monotonic()
    if ownership.includes_self(claim):
        survivors = _survivors(ownership.owned_rows(claim))
        return TerminationResult(
            "scan", proven=False, survivors=survivors, duration_ms=_ms_since(began)
        )
    termination = _Termination(claim, patience, began)
    survivors = _survivors(termination.run())
    method, proven = _proof(claim, termination.cgroup, accepted_proofs)
    return TerminationResult(
        method,
        proven=proven and not survivors,
        signalled=len(termination.signalled),
        forced=termination.forced or _supervisor_forced(claim),
        survivors=survivors,
        duration_ms=_ms_since(began),
        dead_since=termination.dead_since,
    )


class _Termination:
    """One ending, from the first polite word to the last look."""

    def __init__(self, claim: OwnershipSelector, patience: GracePeriods, began: float) -> None:
        self._claim = claim
        self._term_until = began + patience.term_s
        self._until = began + patience.term_s + patience.kill_s
        ours = claim.cgroup is not None and cgroups.is_managed(claim.cgroup)
        self.cgroup = Cgroup(claim.cgroup) if claim.cgroup is not None and ours else None
        self.signalled: set[Identity] = set()
        self.forced = False
        who = claim.supervisor
        # The dead start nothing: whoever is left of one that has long been dead was there
        # then, and a look from that time on, be it another thread's, has seen him.
        self.dead_since = None if who is None else dead_since(who)

    def run(self) -> list[Row]:
        """End all of it; return who is left."""
        self._stop_supervisor()
        rounds = 0
        while left := self._scan(None if rounds else self.dead_since):
            now = time.monotonic()
            if now >= self._until:
                return left
            if now < self._term_until and rounds < _TERM_ROUNDS:
                self._signal_and_wait(left, [signal.SIGTERM, signal.SIGCONT], self._term_until)
            else:
                self._kill(left)
            rounds += 1
        if self.cgroup is not None:
            self._await_empty(self.cgroup)
            self.cgroup.remove()
        return []

    def _stop_supervisor(self) -> None:
        """Let the supervisor end them: it has the same patience. Without it, we have our own."""
        who = self._claim.supervisor
        if who is None or ownership.is_supervisor(self._claim):
            return
        with open_handle(who) as supervisor:
            if supervisor is None:
                return
            self.signalled.add(who)
            supervisor.signal(signal.SIGTERM)
            supervisor.signal(signal.SIGCONT)
            if not wait_readable([supervisor.fd], self._until + _EXTRA_S):
                self.forced = True
                supervisor.signal(signal.SIGKILL)
                wait_readable([supervisor.fd], time.monotonic() + _EXTRA_S)
        # They have had their time to leave; what is left gets no second one.
        self._term_until = time.monotonic()
        self._until = max(self._until, self._term_until + _EXTRA_S)

    def _scan(self, since: float | None) -> list[Row]:
        found = {row.pid: row for row in ownership.owned_rows(self._claim, since=since)}
        for pid in self.cgroup.members() if self.cgroup else ():
            row = table.get(pid)
            if row is not None:
                found[pid] = row
        return list(found.values())

    def _kill(self, left: list[Row]) -> None:
        self.forced = True
        if self.cgroup is not None:
            self.cgroup.kill()
        self._signal_and_wait(left, [signal.SIGKILL], self._until)

    def _signal_and_wait(
        self, rows: list[Row], signals: list[signal.Signals], until: float
    ) -> None:
        """Send *signals* to each, and wait until all of them have ended, or *until*."""
        with contextlib.ExitStack() as holds:
            waiting: set[int] = set()
            for row in rows:
                with contextlib.ExitStack() as this:
                    handle = this.enter_context(open_handle(row.identity))
                    if handle is None:
                        continue
                    for number in signals:
                        handle.signal(number)
                    self.signalled.add(row.identity)
                    if len(waiting) < _HELD_AT_ONCE:
                        waiting.add(handle.fd)
                        holds.push(this.pop_all())
            while waiting and (ended := wait_readable(list(waiting), until)):
                waiting.difference_update(ended)

    def _await_empty(self, cgroup: Cgroup) -> None:
        """Wait for members that no table shows: another pid namespace's, say."""
        watch = cgroup.watch()
        if watch is None:
            return
        with open(watch, "rb", buffering=0) as news:  # noqa: PTH123 - a descriptor
            while cgroup.is_populated():
                self.forced = cgroup.kill()
                if not wait_readable([news.fileno()], self._until, events=select.POLLPRI):
                    return
                news.seek(0)
                news.read()


def _proof(
    claim: OwnershipSelector, cgroup: Cgroup | None, accepted_proofs: frozenset[str]
) -> tuple[str, bool]:
    """Return the strongest method that tells of this agent's end, and whether it proves it."""
    started = exit_record.read_start_record(claim.run_dir)
    seen = exit_record.read_exit_record(claim.exit_file)
    if (
        "cgroup" in accepted_proofs
        and cgroup is not None
        and started is not None
        and started.cgroup
    ):
        return "cgroup", not cgroup.is_populated()
    if "subreaper" in accepted_proofs and seen is not None and seen.contained:
        return "subreaper", True
    return "scan", _was_never_started(claim)


def _was_never_started(claim: OwnershipSelector) -> bool:
    """Tell whether there is nothing to find, because nothing can have been started."""
    if claim.supervisor is not None and claim.supervisor.boot_id != boot_id():
        return True  # The machine has been started anew since.
    if claim.run_dir is None:
        return False
    if exit_record.run_dir_is_gone(claim.run_dir):
        # It is made before the session: without it, and without a supervisor, none can start.
        return claim.supervisor is None
    return exit_record.gate_not_passed(claim.run_dir)


def _supervisor_forced(claim: OwnershipSelector) -> bool:
    seen = exit_record.read_exit_record(claim.exit_file)
    return seen is not None and seen.forced


def _survivors(rows: list[Row]) -> tuple[Survivor, ...]:
    return tuple(Survivor(row.pid, row.comm) for row in rows)


def _ms_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)
