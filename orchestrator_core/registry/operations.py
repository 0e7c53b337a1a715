"""
The changes of a registry's document when an agent comes, reports and goes.

Plain functions on plain documents, each called inside a transaction. Limits are checked
here, where agents are counted under the lock, so that two deployments cannot both get the
last free place. Each function is idempotent, since an undo may find its work done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import (
    InvalidInput,
    LimitReached,
    NotFound,
    OrchestratorError,
)
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import is_active
from orchestrator_core.registry.document import (
    count_end,
    mark_had_agents,
    move_ended_to_counts,
    task_entry,
)

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from orchestrator_core.model.limits import Limits
    from orchestrator_core.registry.document import Document


class KeyTaken(OrchestratorError):
    """A live agent has this key already; ``agent_id`` and ``task_id`` name it."""

    code = "key-taken"

    def __init__(self, key: str, agent_id: str, task_id: str) -> None:
        super().__init__(f"the key {key!r} is taken by the live agent {agent_id!r}")
        self.agent_id, self.task_id = agent_id, task_id


# --- a task's registry -------------------------------------------------------------------------


def find_agent(document: Document, agent_id: str) -> dict[str, Any] | None:
    """Return an agent's record; None if the task has no such agent."""
    found: dict[str, Any] | None = next(
        (record for record in document.get("agents", ()) if record.get("id") == agent_id), None
    )
    return found


def depth_of(record: Mapping[str, Any]) -> int:
    """Return how deep below the orchestrator an agent is; 1 if its record does not say."""
    depth = record.get("depth")
    return depth if isinstance(depth, int) else 1


def check_task_limits(
    document: Document, parent: str, limits: Limits, *, min_depth: int = 1
) -> int:
    """
    Return the depth of a new agent: one more than its parent's, and at least *min_depth*.

    Raises:
        LimitReached: It would be one agent too many for the task, or too deep.
        NotFound: The task has no such parent.
        InvalidInput: The parent has ended.
    """
    if len(document.get("agents", ())) >= limits.max_agents:
        raise LimitReached(f"limit reached: the task has had its {limits.max_agents} agents")
    depth = max(_depth_below(document, parent), min_depth)
    if depth > limits.max_depth:
        raise LimitReached(f"limit reached: depth {depth} is more than {limits.max_depth}")
    return depth


def _depth_below(document: Document, parent: str) -> int:
    if parent == ORCHESTRATOR:
        return 1
    record = find_agent(document, parent)
    if record is None:
        raise NotFound(f"the parent {parent!r} is no agent of task {document.get('task_id')!r}")
    if not is_active(record.get("status")):
        raise InvalidInput(f"the parent {parent!r} has ended, and can have no more children")
    return depth_of(record) + 1


def add_agent(document: Document, record: Mapping[str, Any], limits: Limits) -> None:
    """Add a new agent to its task, at the depth that its parent gives it; checks the limits."""
    if find_agent(document, record["id"]) is not None:
        return
    parent = record["parent"]
    depth = check_task_limits(document, parent, limits, min_depth=record.get("depth", 1))
    document.setdefault("agents", []).append({**record, "depth": depth})
    _hierarchy(document).setdefault(parent, []).append(record["id"])


def remove_agent(document: Document, agent_id: str) -> bool:
    """Remove an agent's record and its place in the hierarchy; return whether it had a record."""
    agents = document.get("agents", [])
    document["agents"] = [record for record in agents if record.get("id") != agent_id]
    hierarchy = _hierarchy(document)
    for parent, children in list(hierarchy.items()):
        if agent_id in children:
            _remove_child(hierarchy, parent, agent_id)
    return len(document["agents"]) < len(agents)


def end_agent(document: Document, agent_id: str, end: Mapping[str, Any]) -> bool:
    """Give an agent its final status; return False if it has one, or has no record."""
    record = find_agent(document, agent_id)
    if record is None or not is_active(record.get("status")):
        return False
    record.update(end)
    return True


def is_finished(record: Mapping[str, Any]) -> bool:
    """Return whether an agent has ended and its record has the result of its cleanup."""
    return not is_active(record.get("status")) and "auto_cleanup_result" in record


# --- children ----------------------------------------------------------------------------------


def children_of(document: Document, agent_id: str) -> list[dict[str, Any]]:
    """
    Return the records of an agent's children, in the order of their deployment.

    A child ranks below its parent: it is deeper, or as deep and added later (the old system
    recorded no depth). A walk from parents to children therefore ends, even in a
    registry that was edited into a cycle.
    """
    ranks = {
        record["id"]: (depth_of(record), position)
        for position, record in enumerate(document.get("agents", ()))
        if isinstance(record.get("id"), str)  # Another program may have written anything.
    }
    own = ranks.get(agent_id, (0, 0))  # An agent without a record ranks above all others.
    return [
        record
        for record in document.get("agents", ())
        if record.get("parent") == agent_id
        and isinstance(record.get("id"), str)
        and ranks[record["id"]] > own
    ]


def descendants_of(document: Document, agent_id: str) -> list[dict[str, Any]]:
    """Return the records of an agent's children, of theirs, and so on."""
    return [
        record
        for child in children_of(document, agent_id)
        for record in (child, *descendants_of(document, child["id"]))
    ]


def orphan_children(document: Document, agent_id: str) -> list[str]:
    """Make the orchestrator the parent of an agent's live children; return their ids."""
    orphans = [child for child in children_of(document, agent_id) if is_active(child.get("status"))]
    hierarchy = _hierarchy(document)
    for child in orphans:
        child["parent"] = ORCHESTRATOR
        if child["id"] in hierarchy.get(agent_id, ()):
            _remove_child(hierarchy, agent_id, child["id"])
        if child["id"] not in hierarchy.setdefault(ORCHESTRATOR, []):
            hierarchy[ORCHESTRATOR].append(child["id"])
    return [child["id"] for child in orphans]


def _hierarchy(document: Document) -> dict[str, list[str]]:
    """Return a document's hierarchy, without what another program wrote that is none."""
    found = document.get("agent_hierarchy")
    if not isinstance(found, dict) or not all(isinstance(each, list) for each in found.values()):
        parts = found.items() if isinstance(found, dict) else ()
        found = {parent: children for parent, children in parts if isinstance(children, list)}
        document["agent_hierarchy"] = found
    return found


def _remove_child(hierarchy: dict[str, list[str]], parent: str, child: str) -> None:
    hierarchy[parent].remove(child)
    if not hierarchy[parent]:
        del hierarchy[parent]


# --- the global registry -------------------------------------------------------------------------


def find_task(document: Document, key: str) -> str | None:
    """Return the id of the listed task with a key; None if there is none."""
    tasks: dict[str, Any] = document["tasks"]
    return next((name for name, entry in tasks.items() if entry.get("key") == key), None)


def add_task(document: Document, task: Document) -> str:
    """List a task, unless a listed one has its key; return the id of the listed one."""
    task_id: str = task["task_id"]
    holder = None if task["key"] is None else find_task(document, task["key"])
    if holder is not None:
        return holder
    document["tasks"][task_id] = task_entry(task)
    return task_id


def check_global_limits(
    document: Document, key: str | None, limits: Limits, *, excluded: Container[str] = ()
) -> None:
    """
    Check that one more agent may run. The *excluded* agents do not count.

    Raises:
        KeyTaken: A live agent has this key.
        LimitReached: Too many agents are running.
    """
    agents: dict[str, Any] = document.get("agents", {})
    if key is not None:
        owner = next((name for name, entry in agents.items() if entry.get("key") == key), None)
        if owner is not None:
            raise KeyTaken(key, owner, str(agents[owner].get("task_id")))
    running = sum(
        is_active(entry.get("status")) and name not in excluded for name, entry in agents.items()
    )
    if running >= limits.max_concurrent:
        raise LimitReached(
            f"limit reached: {running} of {limits.max_concurrent} agents are running"
        )


def add_live(
    document: Document,
    agent_id: str,
    entry: Mapping[str, Any],
    limits: Limits,
    *,
    excluded: Container[str] = (),
) -> None:
    """Add a live agent's entry; checks as :func:`check_global_limits` does."""
    agents = document.setdefault("agents", {})
    if agent_id not in agents:
        check_global_limits(document, entry.get("key"), limits, excluded=excluded)
        agents[agent_id] = dict(entry)


def orphan_entries(document: Document, agent_id: str) -> None:
    """Make the orchestrator the parent in the entries of an agent's children."""
    for entry in document.get("agents", {}).values():
        if entry.get("parent") == agent_id:
            entry["parent"] = ORCHESTRATOR


def remove_live(document: Document, agent_id: str, status: str | None) -> bool:
    """
    Remove an agent's entry and count its end under *status*; return False if it has no entry.

    With None, the agent never came to be, and no end is counted. Entry and count change
    together, so no end is counted twice.
    """
    entry = document.get("agents", {}).pop(agent_id, None)
    if entry is None:
        return False
    if status is not None:
        count_end(document, status)
        mark_had_agents(document.get("tasks", {}), entry)
        move_ended_to_counts(document)
    return True
