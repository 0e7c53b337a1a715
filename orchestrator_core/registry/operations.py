"""
What happens to a registry's document when an agent comes, reports and goes.

Plain functions on plain documents, each to be called under the registry's lock.
Limits are checked here, where agents are counted: a limit that is checked
anywhere else is no limit. Each function is idempotent, since an undo may find
that it has been done.
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
from orchestrator_core.registry.schema import mark_had_agents, move_ended_to_counts

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from orchestrator_core.model.limits import Limits

Document = dict[str, Any]


class KeyTaken(OrchestratorError):
    """A living agent has this key already; ``agent_id`` names it."""

    code = "key-taken"

    def __init__(self, key: str, agent_id: str) -> None:
        super().__init__(f"agent {agent_id!r} lives under the key {key!r}")
        self.agent_id = agent_id


# --- a task's registry -------------------------------------------------------------------------


def find_agent(document: Document, agent_id: str) -> dict[str, Any] | None:
    """Return an agent's record; None if the task has no such agent."""
    found: dict[str, Any] | None = next(
        (record for record in document.get("agents", ()) if record.get("id") == agent_id), None
    )
    return found


def depth_below(document: Document, parent: str) -> int:
    """
    Return the depth of an agent that *parent* deploys: one more than its own.

    Raises:
        NotFound: The task has no such agent.
        InvalidInput: The parent's life is excluded.
    """
    if parent == ORCHESTRATOR:
        return 1
    record = find_agent(document, parent)
    if record is None:
        raise NotFound(f"the parent {parent!r} is no agent of task {document.get('task_id')!r}")
    if not is_active(record.get("status")):
        raise InvalidInput(f"the parent {parent!r} has ended, and can have no more children")
    return depth_of(record) + 1


def depth_of(record: Mapping[str, Any]) -> int:
    """Return how deep below the orchestrator an agent is; 1 if its record does not say."""
    depth = record.get("depth")
    return depth if isinstance(depth, int) else 1


def check_task_limits(
    document: Document, parent: str, limits: Limits, *, min_depth: int = 1
) -> int:
    """
    Return the depth a new agent would have: below its parent, and not above *min_depth*.

    Raises:
        LimitReached: It would be one too many for the task, or too deep.
        NotFound: See :func:`depth_below`.
        InvalidInput: The same.
    """
    if len(document.get("agents", ())) >= limits.max_agents:
        raise LimitReached(f"the task has had its {limits.max_agents} agents")
    depth = max(depth_below(document, parent), min_depth)
    if depth > limits.max_depth:
        raise LimitReached(f"its depth would be {depth}, and {limits.max_depth} is the deepest")
    return depth


def add_agent(document: Document, record: Mapping[str, Any], limits: Limits) -> None:
    """Enter a new agent in its task, at the depth its parent gives it; checks the limits."""
    if find_agent(document, record["id"]) is not None:
        return
    parent = record["parent"]
    depth = check_task_limits(document, parent, limits, min_depth=record.get("depth", 1))
    document.setdefault("agents", []).append({**record, "depth": depth})
    document.setdefault("agent_hierarchy", {}).setdefault(parent, []).append(record["id"])


def remove_agent(document: Document, agent_id: str) -> bool:
    """Take every trace of an agent out of its task; tell whether there was one."""
    agents = document.get("agents", [])
    document["agents"] = [record for record in agents if record.get("id") != agent_id]
    hierarchy = document.get("agent_hierarchy", {})
    for parent, children in list(hierarchy.items()):
        if agent_id in children:
            children.remove(agent_id)
            if not children:
                del hierarchy[parent]
    return len(document["agents"]) < len(agents)


def end_agent(document: Document, agent_id: str, end: Mapping[str, Any]) -> bool:
    """Give an agent its final status; False if it has one already, or is not there."""
    record = find_agent(document, agent_id)
    if record is None or not is_active(record.get("status")):
        return False
    record.update(end)
    return True


# --- children ----------------------------------------------------------------------------------


def children_of(document: Document, agent_id: str) -> list[dict[str, Any]]:
    """
    Return the records of an agent's children, in the order in which they were deployed.

    Each ranks below its parent: it is deeper, or as deep (the old system did not count)
    and entered later. So whoever goes from parents to children only ever goes down,
    even in a registry into which somebody has written a circle.
    """
    ranks = {
        record.get("id"): (depth_of(record), place)
        for place, record in enumerate(document.get("agents", ()))
    }
    own = ranks.get(agent_id, (0, 0))  # Taken out already, or never there: above all others.
    return [
        record
        for record in document.get("agents", ())
        if record.get("parent") == agent_id and ranks[record.get("id")] > own
    ]


def descendants_of(document: Document, agent_id: str) -> list[dict[str, Any]]:
    """Return the records of an agent's children, of theirs, and so on."""
    return [
        record
        for child in children_of(document, agent_id)
        for record in (child, *descendants_of(document, child["id"]))
    ]


def is_finished(record: Mapping[str, Any]) -> bool:
    """Tell whether an agent has ended and its record says what became of all it held."""
    return not is_active(record.get("status")) and "auto_cleanup_result" in record


def orphan_children(document: Document, agent_id: str) -> list[str]:
    """Let an agent's living children belong to the orchestrator; return them. Depths stay."""
    adopted = [child for child in children_of(document, agent_id) if is_active(child.get("status"))]
    hierarchy = document.setdefault("agent_hierarchy", {})
    for child in adopted:
        child["parent"] = ORCHESTRATOR
        if child["id"] in hierarchy.get(agent_id, ()):
            hierarchy[agent_id].remove(child["id"])
        if child["id"] not in hierarchy.setdefault(ORCHESTRATOR, []):
            hierarchy[ORCHESTRATOR].append(child["id"])
    if not hierarchy.get(agent_id, True):
        del hierarchy[agent_id]
    return [child["id"] for child in adopted]


# --- the global registry -------------------------------------------------------------------------


def check_global_limits(
    document: Document, key: str | None, limits: Limits, *, excluded: Container[str] = ()
) -> None:
    """
    See whether one agent more may live; the *excluded* do not count.

    Raises:
        KeyTaken: One lives under this key.
        LimitReached: Too many live.
    """
    agents: dict[str, Any] = document.get("agents", {})
    if key is not None:
        holder = next((name for name, entry in agents.items() if entry.get("key") == key), None)
        if holder is not None:
            raise KeyTaken(key, holder)
    living = sum(
        1
        for name, entry in agents.items()
        if is_active(entry.get("status")) and name not in excluded
    )
    if living >= limits.max_concurrent:
        raise LimitReached(f"{living} agents are alive, and {limits.max_concurrent} may be")


def add_live(
    document: Document,
    agent_id: str,
    entry: Mapping[str, Any],
    limits: Limits,
    *,
    excluded: Container[str] = (),
) -> None:
    """Add a live agent; checks its key and the limits, which do not count the *excluded*."""
    agents = document.setdefault("agents", {})
    if agent_id not in agents:
        check_global_limits(document, entry.get("key"), limits, excluded=excluded)
        agents[agent_id] = dict(entry)


def orphan_entries(document: Document, agent_id: str) -> None:
    """Let the entries of an agent's children belong to the orchestrator."""
    for entry in document.get("agents", {}).values():
        if entry.get("parent") == agent_id:
            entry["parent"] = ORCHESTRATOR


def remove_live(document: Document, agent_id: str, status: str | None) -> bool:
    """
    Take an agent out, and count its end once, under *status*; None: it never was.

    Entry and count change together, so being there is what guards the count.
    """
    entry = document.get("agents", {}).pop(agent_id, None)
    if entry is None:
        return False
    if status is not None:
        ended = document.setdefault("ended", {})
        ended[status] = ended.get(status, 0) + 1
        mark_had_agents(document.get("tasks", {}), entry)
        move_ended_to_counts(document)
    return True
