"""
The cost of opening a root with 1,000 journals, ten of them of lost agents.

    python benchmarks/recovery.py [--rounds N] [DIRECTORY]

The agents lived on a fake terminal. The root shows ten agents as alive that have neither a
session nor a process, as after a reboot. The floor opens the same root without recovery.
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
        root = where / "library"
        _live_through(root)
        taken_ms, floor = [], []
        for _ in range(rounds):
            _lose(root)
            floor.append(timed(lambda: Orchestrator(root, recover=False))[0])
            taken, orch = timed(lambda: Orchestrator(root))
            if orch.agents(status="active"):
                raise RuntimeError("not all was recovered")
            taken_ms.append(taken)
    return [
        Figure(
            name=f"opening with {PAST + LOST:,} journals, {LOST} to recover (floor: none)",
            measured=median(taken_ms),
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
    """Leave agents of which only the records are left."""
    fake = Orchestrator(root, terminal=FakeTerminal(), limits=LIMITS)
    with without_fsync():
        task = fake.create_task("A benchmark").id
        for _ in range(LOST):
            fake.deploy(task, SPEC)


if __name__ == "__main__":
    _figures.main(__doc__, figures)
