"""
What it costs to deploy an agent, and to end one.

    python benchmarks/deploy.py [--rounds N] [DIRECTORY]

The library and the floor (floor_deploy.py, floor_terminate.py) take turns on one warm tmux
server. The agent is a `sleep`, so only the deployment and the end are measured.
"""

from __future__ import annotations

import _figures
from _figures import Figure, counted_fsyncs, median, timed
from _rig import rig


def figures(directory: str | None = None, rounds: int = 40) -> list[Figure]:
    deploys, ends = ([], []), ([], [])
    with rig(directory) as both:
        for number in range(rounds + 2):
            both.level()
            pairs = [(both.deploy_library, both.end_library), (both.deploy_floor, both.end_floor)]
            order = (0, 1) if number % 2 else (1, 0)
            held = {}
            for which in order:
                taken, held[which] = timed(pairs[which][0])
                deploys[which].append(taken)
            for which in order:
                taken, _ = timed(pairs[which][1], held[which])
                ends[which].append(taken)
        counts = [_fsyncs(*pair) for pair in pairs]
    deploy, end = ([median(taken[2:]) for taken in both] for both in (deploys, ends))
    return [
        Figure(
            name="deploy", measured=deploy[0], floor=deploy[1], at_most=1.5, note=_note(counts, 0)
        ),
        Figure(name="terminate", measured=end[0], floor=end[1], at_most=1.5, note=_note(counts, 1)),
    ]


def _fsyncs(deploy, end) -> tuple[int, int]:
    with counted_fsyncs() as seen:
        held = deploy()
        there = len(seen)
        end(held)
        return there, len(seen) - there


def _note(counts, which: int) -> str:
    library, floor = counts
    return f"fsyncs {library[which]}, floor {floor[which]}"


if __name__ == "__main__":
    _figures.main(__doc__, figures)
