"""
What a registry update costs: after a long past, and in a crowd.

    python benchmarks/registry.py [--rounds N] [DIRECTORY]

Medians and ratios of this run. The floor of an update after a long past is an
update after a short one; that of a crowd is one process in a loop of bare
durable replaces of the same bytes (registry_floor.py).
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

import _figures
import portalocker  # noqa: F401 - the crowd is measured, not an import
import registry_floor
from _figures import Figure, median

from orchestrator_core.places import Places
from orchestrator_core.registry import Registry, global_registry, new_global, task_registry

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8


def figures(directory: str | None = None, rounds: int = 200) -> list[Figure]:
    with _figures.place(directory) as where:
        return [*past(where, rounds), *crowd(where, rounds)]


# --- the past -------------------------------------------------------------------------------


def past(directory: Path, rounds: int) -> list[Figure]:
    """One agent comes, in a root with few past agents and in one with many; then it goes."""
    short = build(directory / "short", tasks=1, agents=10)
    long = build(directory / "long", tasks=200, agents=50)
    found = []
    for name, at_most, few_registry, many_registry in (
        ("global registry, 10,000 past agents", 1.2, short[0], long[0]),
        ("its task's registry, 50 past agents", None, short[1], long[1]),
    ):
        few, many, floor = [], [], []
        for number in range(rounds):
            few.append(timed(few_registry, number))
            many.append(timed(many_registry, number))
            data = few_registry.path.read_bytes()
            floor += registry_floor.seconds(str(directory / "floor"), data, 1)
        bare = median(floor) * 1e3
        found.append(
            Figure(
                name=f"update, {name}",
                ours=median(many) * 1e3,
                floor=median(few) * 1e3,
                at_most=at_most,
                note=f"floor: with 10; a bare replace {bare:.2f} ms",
            )
        )
    return found


def timed(registry: Registry, number: int) -> float:
    begun = time.perf_counter()
    registry.update(lambda document: turn(document, number))
    return time.perf_counter() - begun


def turn(document: dict, number: int) -> None:
    """Let an agent come, or go, or report."""
    if isinstance(document["agents"], list):
        document["agents"][-1]["progress"] = number % 100
    elif document["agents"].pop("bench-1", None) is None:
        document["agents"]["bench-1"] = {"task_id": "TASK-live", "type": "bench"}


def build(root: Path, *, tasks: int, agents: int) -> tuple[Registry, Registry]:
    places = Places(root)
    document = new_global()
    for t in range(tasks):
        task_id = f"TASK-20260101-000000-{t:08x}"
        document["tasks"][task_id] = {
            "description": "Find the slow query in the nightly report",
            "created_at": "2026-01-01T00:00:00.000+00:00",
            "status": "INITIALIZED",
            "had_agents": True,
        }
        registry = task_registry(places, task_id)
        registry.create({"task_id": task_id, "agents": [record(task_id, a) for a in range(agents)]})
    document["ended"]["completed"] = tasks * agents
    everything = global_registry(places)
    everything.create(document)
    return everything, registry


def record(task_id: str, number: int) -> dict:
    agent = f"investigator-120000-{number:06x}"
    return {
        "id": agent,
        "type": "investigator",
        "tmux_session": f"agent_{agent}",
        "parent": "orchestrator",
        "depth": 1,
        "status": "completed",
        "started_at": "2026-01-01T12:00:00.000+00:00",
        "completed_at": "2026-01-01T12:30:00.000+00:00",
        "progress": 100,
        "prompt": "Look at the query plans. " * 8,
        "tracked_files": {
            "prompt_file": f"{task_id}/agent_prompt_{agent}.txt",
            "log_file": f"{task_id}/logs/{agent}_stream.jsonl",
            "progress_file": f"{task_id}/progress/{agent}_progress.jsonl",
            "findings_file": f"{task_id}/findings/{agent}_findings.jsonl",
            "deploy_log": f"{task_id}/logs/deploy_{agent}.json",
        },
        "auto_cleanup_result": {"success": True, "errors": []},
    }


# --- the crowd -------------------------------------------------------------------------------


def crowd(directory: Path, rounds: int) -> list[Figure]:
    """Eight processes update one registry as fast as they can, after a common start."""
    registry, _ = build(directory / "crowd", tasks=1, agents=10)
    data = registry.path.read_bytes()
    floor = registry_floor.seconds(str(directory / "crowd" / "floor"), data, rounds * 4)
    gate = multiprocessing.Barrier(PROCESSES + 1)
    answers = multiprocessing.SimpleQueue()
    workers = [
        multiprocessing.Process(
            target=member, args=(registry.path.parents[1], rounds, gate, answers)
        )
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    gate.wait()
    begun = time.perf_counter()
    waits = [wait for _ in workers for wait in answers.get()]
    rate = len(waits) / (time.perf_counter() - begun)
    for worker in workers:
        worker.join()
    middle = median(waits) * 1e3
    return [
        Figure(
            name=f"{PROCESSES} processes, updates of one registry",
            ours=rate,
            floor=len(floor) / sum(floor),
            unit="/s",
            at_least=0.7,
            note="floor: one process, bare replaces",
        ),
        Figure(
            name="… the longest wait",
            ours=max(waits) * 1e3,
            floor=middle,
            at_most=50,
            note="floor: the median wait",
        ),
    ]


def member(root: Path, rounds: int, gate, answers) -> None:
    registry = global_registry(Places(root))
    gate.wait()
    answers.put([timed(registry, number) for number in range(rounds)])


if __name__ == "__main__":
    _figures.main(__doc__, figures)
