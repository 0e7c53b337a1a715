"""
The cost of a registry update: after many past agents, and beside concurrent writers.

    python benchmarks/registry.py [--rounds N] [DIRECTORY]

Medians and ratios of this run. The floor of an update after many past agents is an
update after few. The floor of concurrent writers is one process in a loop of plain durable
replaces of the same bytes (registry_floor.py). Compared files lie in one directory, because
parts of a disk can differ in speed by a factor of two.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

import _figures
import portalocker  # noqa: F401 - the writers are measured, not an import
import registry_floor
from _figures import Figure, median

from orchestrator_core.model.layout import Layout
from orchestrator_core.registry import GLOBAL, TASK, Registry, new_global

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8


def figures(directory: str | None = None, rounds: int = 200) -> list[Figure]:
    with _figures.place(directory) as where:
        return [*past(where, rounds), *concurrent_writers(where, rounds)]


# --- past agents ------------------------------------------------------------------------------


def past(directory: Path, rounds: int) -> list[Figure]:
    """Add and remove one agent, with few past agents and with many."""
    everything, each = documents(1, 10)
    many_registry, many_task = build(directory / "long", tasks=200, agents=50)
    found = []
    for name, at_most, few_document, many in (
        ("global registry, 10,000 past agents", 1.2, everything, many_registry),
        ("its task's registry, 50 past agents", None, each[0], many_task),
    ):
        few = Registry(many.path.with_name("FEW.json"), schema=many.schema)
        few.create(few_document)
        taken: dict[str, list[float]] = {"few": [], "many": [], "bare": []}
        for number in range(rounds):
            taken["few"].append(timed(few, number))
            taken["many"].append(timed(many, number))
            data = few.path.read_bytes()
            taken["bare"] += registry_floor.seconds(str(many.path.with_name("bare")), data, 1)
        ms = {which: median(seconds) * 1e3 for which, seconds in taken.items()}
        found.append(
            Figure(
                name=f"update, {name}",
                measured=ms["many"],
                floor=ms["few"],
                at_most=at_most,
                note=f"floor: with 10; a bare replace {ms['bare']:.2f} ms",
            )
        )
    return found


def timed(registry: Registry, number: int) -> float:
    begun = time.perf_counter()
    with registry.transaction() as document:
        turn(document, number)
    return time.perf_counter() - begun


def turn(document: dict, number: int) -> None:
    """Add, remove or update an agent."""
    if isinstance(document["agents"], list):
        document["agents"][-1]["progress"] = number % 100
    elif document["agents"].pop("bench-1", None) is None:
        document["agents"]["bench-1"] = {"task_id": "TASK-live", "type": "bench"}


def documents(tasks: int, agents: int) -> tuple[dict, list[dict]]:
    """Return the global document, and one for each task."""
    everything, each = new_global(), []
    for t in range(tasks):
        task_id = f"TASK-20260101-000000-{t:08x}"
        everything["tasks"][task_id] = {
            "description": "Find the slow query in the nightly report",
            "created_at": "2026-01-01T00:00:00.000+00:00",
            "status": "INITIALIZED",
            "had_agents": True,
        }
        each.append({"task_id": task_id, "agents": [record(task_id, a) for a in range(agents)]})
    everything["ended"]["completed"] = tasks * agents
    return everything, each


def build(root: Path, *, tasks: int, agents: int) -> tuple[Registry, Registry]:
    """Write the documents; return the global registry and that of the last task."""
    layout = Layout(root)
    everything, each = documents(tasks, agents)
    for document in each:
        registry = Registry(layout.task_registry(document["task_id"]), schema=TASK)
        registry.create(document)
    whole = Registry(layout.global_registry, schema=GLOBAL)
    whole.create(everything)
    return whole, registry


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


# --- concurrent writers -----------------------------------------------------------------------


def concurrent_writers(directory: Path, rounds: int) -> list[Figure]:
    """Let eight processes update one registry as fast as they can, after a common start."""
    registry, _ = build(directory / "concurrent_writers", tasks=1, agents=10)
    data = registry.path.read_bytes()
    bare = str(registry.path.with_name("floor"))
    floor = registry_floor.seconds(bare, data, rounds * 2)
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
    floor += registry_floor.seconds(bare, data, rounds * 2)
    middle = median(waits) * 1e3
    return [
        Figure(
            name=f"{PROCESSES} processes, updates of one registry",
            measured=rate,
            floor=len(floor) / sum(floor),
            unit="/s",
            at_least=0.7,
            note="floor: one process, bare replaces",
        ),
        Figure(
            name="… the longest wait",
            measured=max(waits) * 1e3,
            floor=middle,
            at_most=50,
            note="floor: the median wait",
        ),
    ]


def member(root: Path, rounds: int, gate, answers) -> None:
    registry = Registry(Layout(root).global_registry, schema=GLOBAL)
    gate.wait()
    answers.put([timed(registry, number) for number in range(rounds)])


if __name__ == "__main__":
    _figures.main(__doc__, figures)
