"""
The two kinds of registry: what they count, and where their past goes.

A task's registry keeps all agents it ever had. The global one must not grow
with the past: it lists the live agents, and the tasks that have some or are
about to. An agent that ends leaves it, and moves in the same update into
``ended``, a count for each final status; a task whose agents are gone moves
into ``past_tasks``. Being listed is what guards the count, so nothing counts
twice, and every other counter is derived from the document at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.model.status import is_active
from orchestrator_core.registry.document import Schema
from orchestrator_core.registry.store import Registry
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.model.layout import Layout
    from orchestrator_core.registry.document import Document
    from orchestrator_core.registry.store import Quarantined


def _derive_task(document: Document) -> None:
    agents = document["agents"]
    active = sum(is_active(agent.get("status")) for agent in agents)
    document["total_spawned"] = len(agents)
    document["active_count"] = active
    document["completed_count"] = len(agents) - active  # ended, however


def _derive_global(document: Document) -> None:
    _move_past_tasks_to_count(document)
    tasks, agents = document["tasks"], document["agents"]
    active = {task_id for task_id, task in tasks.items() if is_active(task.get("status"))}
    document["total_tasks"] = len(tasks) + _count(document.get("past_tasks"))
    living = {
        str(agent.get("task_id")) for agent in agents.values() if is_active(agent.get("status"))
    }
    document["active_tasks"] = len(active | living)
    document["total_agents_spawned"] = len(agents) + sum(document["ended"].values())
    document["active_agents"] = sum(is_active(agent.get("status")) for agent in agents.values())


def _move_past_tasks_to_count(document: Document) -> None:
    """
    Count the tasks whose agents are all gone in ``past_tasks``, and list them no more.

    Their directories hold all there is to know. A task that had no agent yet
    stays: it is about to. One with a key stays: the key must find it.
    """
    tasks, busy = document["tasks"], _busy_tasks(document)
    for task_id in busy & tasks.keys():
        if not _is_legacy(tasks[task_id]):
            tasks[task_id]["had_agents"] = True
    past = [
        task_id
        for task_id, task in tasks.items()
        if task.get("had_agents") and task_id not in busy and task.get("key") is None
    ]
    for task_id in past:
        del tasks[task_id]
    if past:
        document["past_tasks"] = _count(document.get("past_tasks")) + len(past)


def _is_legacy(task: dict[str, Any]) -> bool:
    """Tell whether the old system has listed a task: then it stays as it is until an agent ends."""
    return "created_at" in task and "key" not in task


def move_ended_to_counts(document: Document) -> None:
    """
    Count the ended agents that the old system left among the living, and list them no more.

    For when an agent ends: until then, nothing of what it wrote is changed. Their
    records are in their tasks as well.
    """
    agents, tasks = document.get("agents", {}), document.get("tasks", {})
    ended = document.setdefault("ended", {})
    for agent_id, agent in list(agents.items()):
        if not is_active(agent.get("status")):
            del agents[agent_id]
            ended[agent["status"]] = ended.get(agent["status"], 0) + 1
            mark_had_agents(tasks, agent)


def mark_had_agents(tasks: dict[str, Any], agent: dict[str, Any]) -> None:
    """Note at an agent's task that it had some: without any left, it is past."""
    task = tasks.get(str(agent.get("task_id")))
    if task is not None:
        task["had_agents"] = True


def _busy_tasks(document: Document) -> set[str]:
    """Return the ids of the tasks that the listed agents are of."""
    return {str(agent.get("task_id")) for agent in document["agents"].values()}


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _task_from_0(_document: Document) -> None:
    """Version 0 is the old system's: the same names, without a version."""


def _global_from_0(_document: Document) -> None:
    """In version 0 the ended agents stayed; they go when the next one ends: let_ended_go."""


TASK = Schema(
    name="task registry",
    entry_fields={"agents": list},
    derive=_derive_task,
    migrations=(_task_from_0,),
)

GLOBAL = Schema(
    name="global registry",
    entry_fields={"tasks": dict, "agents": dict},
    count_fields=frozenset({"ended"}),
    derive=_derive_global,
    migrations=(_global_from_0,),
)


def task_registry(
    layout: Layout,
    task_id: str,
    *,
    rebuild: Callable[[], Document | None] | None = None,
    on_damage: Callable[[Quarantined], None] | None = None,
    lock_timeout_s: float = 10.0,
) -> Registry:
    """Return the registry of one task."""
    return Registry(
        layout.task_registry(task_id),
        schema=TASK,
        rebuild=rebuild,
        on_damage=on_damage,
        lock_timeout_s=lock_timeout_s,
    )


def global_registry(
    layout: Layout,
    *,
    rebuild: Callable[[], Document | None] | None = None,
    on_damage: Callable[[Quarantined], None] | None = None,
    lock_timeout_s: float = 10.0,
) -> Registry:
    """
    Return the registry of the whole root.

    Damaged, it is rebuilt by *rebuild*; without one, from the tasks' own, in
    which there is less than there may be in journals.
    """
    return Registry(
        layout.global_registry,
        schema=GLOBAL,
        rebuild=rebuild or (lambda: _from_tasks(layout)),
        on_damage=on_damage,
        lock_timeout_s=lock_timeout_s,
    )


def new_global() -> Document:
    """Return the global document of a root in which nothing has happened."""
    return {
        "schema_version": GLOBAL.version,
        "created_at": timestamp(),
        "total_tasks": 0,
        "active_tasks": 0,
        "total_agents_spawned": 0,
        "active_agents": 0,
        "past_tasks": 0,
        "ended": {},
        "tasks": {},
        "agents": {},
    }


def _from_tasks(layout: Layout) -> Document:
    """Rebuild the global document from what the tasks know. One that is damaged is left out."""
    document = new_global()
    for task_id in layout.task_ids():
        task = task_registry(layout, task_id).read_or_none()
        if task is not None:
            document["tasks"][task_id] = task_entry(task)
            for agent in task["agents"]:
                _count_in(document, task_id, agent)
    return document


def task_entry(task: Document) -> dict[str, Any]:
    """Return what the global document says of a task, from the task's own."""
    entry = {
        "description": task.get("task_description", ""),
        "created_at": task.get("created_at", ""),
        "status": task.get("status", "INITIALIZED"),
        "key": task.get("key"),
    }
    return {**entry, "had_agents": True} if task["agents"] else entry


def agent_entry(task_id: str, agent: dict[str, Any]) -> dict[str, Any]:
    """Return what the global document says of a living agent, from its record."""
    known = ("type", "parent", "started_at", "tmux_session", "key", "deadline_at")
    return {"task_id": task_id, **{name: agent[name] for name in known if name in agent}}


def _count_in(document: Document, task_id: str, agent: dict[str, Any]) -> None:
    if is_active(agent.get("status")):
        document["agents"][str(agent.get("id"))] = agent_entry(task_id, agent)
    else:
        ended = document["ended"]
        ended[agent["status"]] = ended.get(agent["status"], 0) + 1
