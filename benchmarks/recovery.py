"""
What opening a root costs after a long past: 1,000 journals, ten of them of agents that are lost.

    python benchmarks/recovery.py [--rounds N] [DIRECTORY]

The past was lived on a fake terminal. Who opens the root finds ten agents that are
recorded as alive, and neither a session nor a process of them: the machine has
rebooted, as it were. The floor is opening the same root without recovering anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import _figures
from _figures import Figure, median, timed
from sweep import LIMITS, SPEC, without_fsync

from orchestrator_core import Orchestrator
from orchestrator_core.testing import FakeTerminal

if TYPE_CHECKING:
    from pathlib import Path

PAST, LOST = 990, 10


def figures(directory: str | None = None, rounds: int = 7) -> list[Figure]:
    with _figures.place(directory) as where:
        root = where / "ours"
        _live_through(root)
        ours, floor = [], []
        for _ in range(rounds):
            _lose(root)
            floor.append(timed(lambda: Orchestrator(root, recover=False))[0])
            taken, orch = timed(lambda: Orchestrator(root))
            if orch.agents(status="active"):
                raise RuntimeError("not all was recovered")
            ours.append(taken)
    return [
        Figure(
            name=f"opening with {PAST + LOST:,} journals, {LOST} to recover (floor: none)",
            ours=median(ours),
            floor=median(floor),
            at_most_units=1000,
        )
    ]


def _live_through(root: Path) -> None:
    fake = Orchestrator(root, terminal=FakeTerminal(), limits=LIMITS)
    with without_fsync():
        for _ in range(PAST // 198):
            task = fake.create_task("The past").id
            for _ in range(198):
                fake.terminate(fake.deploy(task, SPEC).id)


def _lose(root: Path) -> None:
    """Leave agents behind that nothing is left of but what is written."""
    fake = Orchestrator(root, terminal=FakeTerminal(), limits=LIMITS)
    with without_fsync():
        task = fake.create_task("A benchmark").id
        for _ in range(LOST):
            fake.deploy(task, SPEC)


if __name__ == "__main__":
    _figures.main(__doc__, figures)
