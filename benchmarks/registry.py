"""
What a registry update costs: after a long past, and in a crowd.

    python benchmarks/registry.py [--rounds N] [DIRECTORY]

Prints medians and ratios of this run, beside the floor: a bare durable replace
of the same bytes. Put DIRECTORY on the disk you mean; without it, a temporary one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import portalocker  # noqa: F401 - the crowd is measured, not an import
import registry_floor

from orchestrator_core.places import Places
from orchestrator_core.registry import Registry, global_registry, new_global, task_registry

PROCESSES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure registry updates.")
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        past(Path(directory), options.rounds)
        crowd(Path(directory), options.rounds)


# --- the past -------------------------------------------------------------------------------


def past(directory: Path, rounds: int) -> None:
    """One agent comes, in a root with few past agents and in one with many; then it goes."""
    short = build(directory / "short", tasks=1, agents=10)
    long = build(directory / "long", tasks=200, agents=50)
    print(f"one update, ms (median of {rounds})      10 past   10,000 past   ratio   floor")
    for name, which in (("global registry", 0), ("task registry, 10 and 50", 1)):
        few, many, floor = [], [], []
        for number in range(rounds):
            few.append(timed(short[which], number))
            many.append(timed(long[which], number))
            data = short[which].path.read_bytes()
            floor += registry_floor.seconds(str(directory / "floor"), data, 1)
        a, b, c = (statistics.median(taken) * 1e3 for taken in (few, many, floor))
        print(f"  {name:<32} {a:8.3f} {b:12.3f} {b / a:9.2f} {c:7.3f}")


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


def crowd(directory: Path, rounds: int) -> None:
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
    bare = len(floor) / sum(floor)
    waits.sort()
    middle = statistics.median(waits)
    print(f"{PROCESSES} processes, {len(waits)} updates of one registry")
    print(f"  rate {rate:.0f}/s   floor, one process, bare {bare:.0f}/s   ratio {rate / bare:.2f}")
    shown = {name: waits[int(len(waits) * p)] * 1e3 for name, p in (("90 %", 0.9), ("99 %", 0.99))}
    print(
        f"  one update, ms: median {middle * 1e3:.2f}   "
        + "   ".join(f"{name} {value:.2f}" for name, value in shown.items())
        + f"   longest {waits[-1] * 1e3:.1f} = {waits[-1] / middle:.0f} medians"
    )


def member(root: Path, rounds: int, gate, answers) -> None:
    registry = global_registry(Places(root))
    gate.wait()
    answers.put([timed(registry, number) for number in range(rounds)])


if __name__ == "__main__":
    main()
