"""
The termination of everything that an agent started, and its proof.

The supervisor gets SIGTERM first: it is above all processes of the agent and sees what no
scan sees. The rest is terminated from here: SIGTERM, then SIGKILL, in rounds, until a scan of
the machine finds no process of the agent. Each wait is on the processes themselves and has a
deadline.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes import cgroups, exit_record, ownership, table
from orchestrator_core.system.processes.identity import is_alive, is_visible, open_handle
from orchestrator_core.system.processes.protocol import Survivor, TerminationResult

if TYPE_CHECKING:
    from orchestrator_core.system.processes.protocol import (
        GracePeriods,
        Identity,
        OwnershipSelector,
    )
    from orchestrator_core.system.processes.table import Row

_EXTRA_S = 0.5  #: For the supervisor to report its result; and the minimum after a SIGKILL.
_TERM_ROUNDS = 4  #: A process still found after so many rounds forks faster than it is stopped.
_MAX_HANDLES = 200  #: Open at the same time; well below the usual limit of open files.


def terminate_all(
    selector: OwnershipSelector, grace: GracePeriods, *, accepted_proofs: frozenset[str]
) -> TerminationResult:
    """
    Terminate all processes that *selector* covers, and prove that none is left.

    *accepted_proofs* are the proofs that count besides the scan: "cgroup", "subreaper".
    If the calling process is covered itself, nothing is signalled and nothing is proved.

    Raises:
        OutOfSight: The agent lives in another namespace; nothing was signalled.
    """
    start = time.monotonic()
    if ownership.includes_self(selector):
        survivors = _survivors(ownership.owned_rows(selector))
        return TerminationResult(
            "scan", proven=False, survivors=survivors, duration_ms=ms_since(start)
        )
    termination = _Termination(selector, grace, start)
    left = {row.pid: row for row in termination.run()}
    left |= {row.pid: row for row in termination.await_end(ownership.surviving_rows(selector))}
    survivors = _survivors(list(left.values()))
    method, proven = _proof(selector, termination.cgroup, accepted_proofs)
    record = exit_record.read_exit_record(selector.exit_file)
    return TerminationResult(
        method,
        proven=proven and not survivors,
        signalled=len(termination.signalled),
        forced=termination.forced or (record is not None and record.forced),
        survivors=survivors,
        duration_ms=ms_since(start),
        refused=tuple(termination.refused),
    )


class _Termination:
    """One termination, from the supervisor's SIGTERM to the last scan."""

    def __init__(self, selector: OwnershipSelector, grace: GracePeriods, start: float) -> None:
        self._selector = selector
        self._term_deadline = start + grace.term_s
        self._deadline = start + grace.term_s + grace.kill_s
        path = selector.cgroup
        self.cgroup = Cgroup(path) if path is not None and cgroups.is_managed(path) else None
        self.signalled: set[Identity] = set()
        self.refused: list[str] = []  #: Processes of the selector without a proof.
        self.forced = False

    def run(self) -> list[Row]:
        """Terminate all processes; return the ones that are left."""
        self._stop_supervisor()
        rounds = 0
        while left := self._scan():
            now = time.monotonic()
            if now >= self._deadline:
                return left
            if now < self._term_deadline and rounds < _TERM_ROUNDS:
                self._signal_and_wait(left, [signal.SIGTERM, signal.SIGCONT], self._term_deadline)
            else:
                self._kill(left)
            rounds += 1
        if self.cgroup is not None:
            self._await_empty(self.cgroup)
            self.cgroup.remove()
        return []

    def _stop_supervisor(self) -> None:
        """Let the supervisor, if it is alive, terminate its processes within the same limits."""
        supervisor = self._selector.supervisor
        if supervisor is None or ownership.is_supervisor(self._selector):
            return
        if not is_visible(supervisor):
            return  # It is dead: ownership.includes_self has raised otherwise.
        with open_handle(supervisor) as handle:
            if handle is None:
                return
            if not table.bears_cookie(supervisor, self._selector.cookie):
                row = table.get(supervisor.pid)
                name = f"process {supervisor.pid} ({row.comm if row else '?'})"
                self.refused.append(f"{name} is named as the supervisor, without its cookie")
                return
            self.signalled.add(supervisor)
            handle.signal(signal.SIGTERM)
            handle.signal(signal.SIGCONT)
            if not wait_readable([handle.fd], self._deadline + _EXTRA_S):
                self.forced = True
                handle.signal(signal.SIGKILL)
                wait_readable([handle.fd], time.monotonic() + _EXTRA_S)
        # The supervisor has used up the time for SIGTERM.
        self._term_deadline = time.monotonic()
        self._deadline = max(self._deadline, self._term_deadline + _EXTRA_S)

    def _scan(self) -> list[Row]:
        found = {row.pid: row for row in ownership.owned_rows(self._selector)}
        for pid in self.cgroup.members() if self.cgroup else ():
            row = table.get(pid)
            if row is not None:
                found[pid] = row
        return list(found.values())

    def _kill(self, left: list[Row]) -> None:
        self.forced = True
        if self.cgroup is not None:
            self.cgroup.kill()
        self._signal_and_wait(left, [signal.SIGKILL], self._deadline)

    def _signal_and_wait(
        self, rows: list[Row], signals: list[signal.Signals], deadline: float
    ) -> None:
        """Send *signals* to each process, and wait until all have ended, or until *deadline*."""
        with contextlib.ExitStack() as handles:
            waiting: set[int] = set()
            for row in rows:
                with contextlib.ExitStack() as this:
                    handle = this.enter_context(open_handle(row.identity))
                    if handle is None:
                        continue
                    for number in signals:
                        handle.signal(number)
                    self.signalled.add(row.identity)
                    if len(waiting) < _MAX_HANDLES:
                        waiting.add(handle.fd)
                        handles.push(this.pop_all())
            while waiting and (ended := wait_readable(list(waiting), deadline)):
                waiting.difference_update(ended)

    def await_end(self, rows: list[Row]) -> list[Row]:
        """Wait for the end of processes that were killed before; return those that are alive."""
        self._signal_and_wait([row for row in rows if not _is_denied(row.pid)], [], self._deadline)
        return [row for row in rows if is_alive(row.identity)]

    def _await_empty(self, cgroup: Cgroup) -> None:
        """Kill and await members that no table shows: those of another pid namespace, say."""
        watch = cgroup.watch()
        if watch is None:
            return
        with open(watch, "rb", buffering=0) as events:  # noqa: PTH123 - a descriptor
            while cgroup.is_populated() and time.monotonic() < self._deadline:
                self.forced = cgroup.kill()
                if not wait_readable([events.fileno()], self._deadline, events=select.POLLPRI):
                    return
                events.seek(0)
                events.read()


def _proof(
    selector: OwnershipSelector, cgroup: Cgroup | None, accepted_proofs: frozenset[str]
) -> tuple[str, bool]:
    """Return the strongest accepted proof for this agent, and whether it holds."""
    started = exit_record.read_start_record(selector.run_dir)
    record = exit_record.read_exit_record(selector.exit_file)
    was_inside = started is not None and started.cgroup
    if "cgroup" in accepted_proofs and cgroup is not None and was_inside:
        return "cgroup", not cgroup.is_populated()
    if "subreaper" in accepted_proofs and exit_record.is_proof(selector, record):
        return "subreaper", True
    return "scan", exit_record.never_started(selector, boot_id())


def _survivors(rows: list[Row]) -> tuple[Survivor, ...]:
    return tuple(Survivor(row.pid, row.comm, row.identity, _is_denied(row.pid)) for row in rows)


def _is_denied(pid: int) -> bool:
    """Return whether the kernel refuses this user's signals for a process."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False
