"""
The cost of a start: an import, and a whole `orchestrator-core progress`.

    python benchmarks/start_up.py [--rounds N] [DIRECTORY]

An agent reports its progress often, each time in a new process. So the whole process is
measured, from the start of Python to its end.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import _figures
from _figures import HERE, Figure, median, timed
from _rig import rig

BARE = [sys.executable, "-c", "pass"]
IMPORT = [sys.executable, "-c", "import orchestrator_core"]
_CACHE = Path(tempfile.gettempdir()) / f"oc-bench-{os.geteuid()}-pycache"
_ISOLATED = [sys.executable, "-I", "-S", "-X", f"pycache_prefix={_CACHE}", "-c"]
BARE_ISOLATED = [*_ISOLATED, "pass"]
_IMPORTS = "from orchestrator_core.supervisor import gate, launch, main_loop, signals"
SUPERVISOR = [*_ISOLATED, f"import sys; sys.path.append({str(HERE.parent)!r}); {_IMPORTS}"]
ALL = [sys.executable, "-c", "from orchestrator_core import Orchestrator"]


def figures(directory: str | None = None, rounds: int = 20) -> list[Figure]:
    with rig(directory) as both:
        agent = both.orch.agent(both.deploy_library())
        task = both.orch.task(agent.task_id).workspace
        progress = [sys.executable, "-m", "orchestrator_core", "progress", "--status", "working"]
        inside = {
            "ORCHESTRATOR_ROOT": str(both.orch.root),
            "ORCHESTRATOR_AGENT_ID": agent.id,
            "ORCHESTRATOR_TASK_ID": agent.task_id,
        }
        floor = [sys.executable, "-I", "-S", str(HERE / "floor_start_up.py"), task, agent.id]
        numbers = itertools.cycle(range(100))
        bare, isolated, supervisor, imported, everything, reported, bare_report = interleaved(
            rounds,
            lambda: run(BARE),
            lambda: run(BARE_ISOLATED),
            lambda: run(SUPERVISOR),
            lambda: run(IMPORT),
            lambda: run(ALL),
            lambda: run([*progress, "--progress", str(next(numbers))], inside),
            lambda: run(floor),
        )
    return [
        Figure(name="import orchestrator_core", measured=imported, floor=bare, at_most_more=30),
        Figure(name="… and Orchestrator", measured=everything, floor=bare),
        Figure(
            name="the supervisor's imports",
            measured=supervisor,
            floor=isolated,
            at_most_more=3.5,
            note="floor: a bare python -I -S",
        ),
        Figure(
            name="orchestrator-core progress",
            measured=reported,
            floor=bare_report,
            at_most_units=150,
            note="from inside an agent; floor: a bare Python that does the same to the disk",
        ),
    ]


def interleaved(rounds: int, *calls) -> list[float]:
    """Return the median milliseconds of each call; they take turns, after two warm-ups."""
    taken = [[timed(call)[0] for call in calls] for _ in range(rounds + 2)]
    return [median(list(column)) for column in zip(*taken[2:], strict=True)]


def run(argv: list[str], more: dict[str, str] | None = None) -> None:
    subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment() | (more or {}),
        check=True,
    )


def environment() -> dict[str, str]:
    """Return this environment, with byte code cached outside of this tree."""
    variables = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**variables, "PYTHONPATH": str(HERE.parent), "PYTHONPYCACHEPREFIX": str(_CACHE)}


if __name__ == "__main__":
    _figures.main(__doc__, figures)
