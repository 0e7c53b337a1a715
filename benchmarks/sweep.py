"""
The cost of a sweep of 200 live agents, with and without past agents, and of reaping.

    python benchmarks/sweep.py [--rounds N] [DIRECTORY]

A sweep that finds nothing takes turns with its floor (floor_sweep.py): one
`tmux list-panes -a` and one pass over /proc. The past agents are a thousand that were
deployed on a fake terminal and ended. The dead agents are fifty at once whose processes were
all killed with SIGKILL; their floor is one of them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import _figures
import floor_sweep
from _figures import Figure, median, timed

from orchestrator_core import AgentSpec, Limits, Orchestrator
from orchestrator_core.system.processes import LocalProcesses
from orchestrator_core.testing import FakeTerminal

if TYPE_CHECKING:
    from pathlib import Path

LIVE, PAST, DEAD = 200, 1000, 50
OF_A_TASK = 20
SPEC = AgentSpec(type="bench", prompt="Find the slow query.", command=["sleep", "1000"])
#: An agent that outlives its supervisor, and ends only by SIGKILL.
DEAF = AgentSpec(type="bench", prompt="p", command=["sh", "-c", "trap '' TERM HUP; sleep 1000"])
LIMITS = Limits(max_concurrent=2 * LIVE, max_agents=5 * LIVE)


def figures(directory: str | None = None, rounds: int = 15) -> list[Figure]:
    with _figures.place(directory) as where:
        rig = Rig(where / "library")
        try:
            rig.deploy(LIVE)
            rig.sweep()
            young = _in_turns(rig, rounds)
            rig.live_through(PAST)
            old = _in_turns(rig, rounds)
            one = median([rig.reap(1) for _ in range(5)])
            many = median([rig.reap(DEAD) for _ in range(3)])
            one_deaf = median([rig.reap(1, deaf=True) for _ in range(3)])
            many_deaf = rig.reap(DEAD, deaf=True)
        finally:
            rig.close()
    return [
        Figure(name=f"a sweep of {LIVE} live agents", measured=young[0], floor=young[1], at_most=3),
        Figure(name=f"… with {PAST:,} ended ones", measured=old[0], floor=old[1], at_most=3),
        Figure(name=f"reaping {DEAD} dead (floor: one)", measured=many, floor=one, at_most=6),
        Figure(
            name="… that leave something deaf to TERM behind",
            measured=many_deaf,
            floor=one_deaf,
            at_most=4,
        ),
    ]


def _in_turns(rig: Rig, rounds: int) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            ms, _ = timed((rig.sweep, rig.floor)[which])
            taken[which].append(ms)
    return median(taken[0][1:]), median(taken[1][1:])


class Rig:
    """One root with many agents."""

    def __init__(self, root: Path) -> None:
        self.orch = Orchestrator(root, limits=LIMITS)
        self.socket = str(root / "tmux.sock")
        self._tmux = shutil.which("tmux")
        self._prefix = f"oc_{self.orch.stats().root_id}_"
        self._deployed = 0
        self.task = self._a_task()

    def deploy(self, count: int, spec: AgentSpec = SPEC) -> list[str]:
        with without_fsync(), ThreadPoolExecutor(2) as pool:
            tasks = [self._a_task() for _ in range(count)]
            return list(pool.map(lambda task: self.orch.deploy(task, spec).id, tasks))

    def _a_task(self) -> str:
        """Return a task with fewer agents than its limit."""
        if not self._deployed % OF_A_TASK:
            self.task = self.orch.create_task("A benchmark").id
        self._deployed += 1
        return self.task

    def sweep(self) -> None:
        report = self.orch.sweep()
        if not report.clean or len(report.alive) != LIVE:
            raise RuntimeError(f"not as it should be: {report}")

    def floor(self) -> None:
        floor_sweep.look(self._tmux, self.socket, self._prefix.encode())

    def live_through(self, count: int) -> None:
        """Deploy and end agents on the fake, with all files on the disk."""
        fake = Orchestrator(self.orch.root, terminal=FakeTerminal(), limits=LIMITS, recover=False)
        with without_fsync():
            for _ in range(count // LIVE):
                task = fake.create_task("The past").id
                for _ in range(LIVE):
                    fake.terminate(fake.deploy(task, SPEC).id)

    def reap(self, count: int, *, deaf: bool = False) -> float:
        """Return the milliseconds that it takes to reap that many dead agents."""
        if deaf:
            agents = self.deploy(count, DEAF)
            _end([self.orch.history(agent).frame("spawn_tmux").load() for agent in agents])
        else:
            self.kill(set(self.deploy(count)))
        self.floor()  # Returns when tmux has handled their deaths, which is not measured.
        taken, report = timed(lambda: self.orch.sweep(reap=True))
        if len(report.reaped) != count or report.left:
            raise RuntimeError(f"not all was reaped: {report}")
        return taken

    def kill(self, agents: set[str]) -> None:
        doomed = LocalProcesses().find_tagged(self._prefix)
        _kill(
            [one.identity.pid for one in doomed if one.cookie.removeprefix(self._prefix) in agents]
        )

    def close(self) -> None:
        self.kill({agent.id for agent in self.orch.agents(status="active")})
        # The private server, by its socket.
        subprocess.run([self._tmux, "-S", self.socket, "kill-server"], check=False)
        with without_fsync():
            self.orch.recover()  # The recovery removes their cgroups.


def _end(receipts) -> None:
    """Kill supervisors, and none of their children."""
    _kill([receipt.supervisor.pid for receipt in receipts])


def _kill(pids: list[int]) -> None:
    handles = [os.pidfd_open(pid) for pid in pids]
    for handle in handles:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    for handle in handles:
        select.select([handle], [], [], 10)
        os.close(handle)


@contextmanager
def without_fsync():
    """Skip fsyncs during the preparation, which is not measured."""
    plain = os.fsync
    os.fsync = lambda _fd: None
    try:
        yield
    finally:
        os.fsync = plain


if __name__ == "__main__":
    _figures.main(__doc__, figures)
