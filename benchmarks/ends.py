"""
What it costs to end an agent beside a resident sweeper, and beside many other agents.

    python benchmarks/ends.py [--rounds N] [DIRECTORY]

`terminate` takes turns on two roots. On one of them `orchestrator-core sweep --watch` runs, as
is recommended: it notices each end, and must not slow it down. Then one root gets many live
agents: an end looks through all processes of the machine.
"""

from __future__ import annotations

from contextlib import ExitStack

import _figures
import resident
import sweep
from _figures import Figure, median, timed

FEW, MANY = 20, 300


def figures(directory: str | None = None, rounds: int = 40) -> list[Figure]:
    with _figures.place(directory) as where, ExitStack() as stack:
        rigs = [sweep.Rig(where / name) for name in ("alone", "beside")]
        for rig in rigs:
            stack.callback(rig.close)
        stack.enter_context(resident.running(rigs[1].orch.root))
        taken: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 2):
            for which in (0, 1) if number % 2 else (1, 0):
                taken[which].append(_end_one(rigs[which]))
        alone, beside = (median(each[2:]) for each in taken)
        rigs[0].deploy(FEW)
        few = median([_end_one(rigs[0]) for _ in range(rounds)])
        rigs[0].deploy(MANY - FEW)
        many = median([_end_one(rigs[0]) for _ in range(rounds)])
    return [
        Figure(name="terminate beside a sweeper", measured=beside, floor=alone, at_most=1.2),
        Figure(
            name=f"terminate, {MANY} alive (floor: {FEW})", measured=many, floor=few, at_most=1.3
        ),
    ]


def _end_one(rig: sweep.Rig) -> float:
    [agent] = rig.deploy(1)
    ms, report = timed(rig.orch.terminate, agent)
    if not (report.success and report.verified_no_zombies):
        raise RuntimeError(f"something was left: {report}")
    return ms


if __name__ == "__main__":
    _figures.main(__doc__, figures)
