"""
What happens to a registry's document when an agent comes, reports and goes.

Plain functions on plain documents, each to be called under the registry's lock.
Limits are checked here, where agents are counted: a limit that is checked
anywhere else is no limit. Each function is idempotent, since an undo may find
that it has been done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.agents import ORCHESTRATOR, is_active
from orchestrator_core.exceptions import InvalidInput, LimitReached, NotFound, OrchestratorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.agents import Limits

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
        InvalidInput: The parent's life is over.
    """
    if parent == ORCHESTRATOR:
        return 1
    record = find_agent(document, parent)
    if record is None:
        raise NotFound(f"the parent {parent!r} is no agent of task {document.get('task_id')!r}")
    if not is_active(record.get("status")):
        raise InvalidInput(f"the parent {parent!r} has ended, and can have no more children")
    return int(record.get("depth", 1)) + 1


def check_task_limits(document: Document, parent: str, limits: Limits) -> int:
    """
    Return the depth a new agent would have.

    Raises:
        LimitReached: It would be one too many for the task, or too deep.
        NotFound: See :func:`depth_below`.
        InvalidInput: The same.
    """
    if len(document.get("agents", ())) >= limits.max_agents:
        raise LimitReached(f"the task has had its {limits.max_agents} agents")
    depth = depth_below(document, parent)
    if depth > limits.max_depth:
        raise LimitReached(
            f"{parent!r} is at depth {depth - 1}, and {limits.max_depth} is the deepest"
        )
    return depth


def add_agent(document: Document, record: Mapping[str, Any], limits: Limits) -> None:
    """Enter a new agent in its task, at the depth its parent gives it; checks the limits."""
    if find_agent(document, record["id"]) is not None:
        return
    parent = record["parent"]
    depth = check_task_limits(document, parent, limits)
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


# --- the global registry -------------------------------------------------------------------------


def check_global_limits(document: Document, key: str | None, limits: Limits) -> None:
    """
    See whether one agent more may live.

    Raises:
        KeyTaken: One lives under this key.
        LimitReached: Too many live.
    """
    agents: dict[str, Any] = document.get("agents", {})
    if key is not None:
        holder = next((name for name, entry in agents.items() if entry.get("key") == key), None)
        if holder is not None:
            raise KeyTaken(key, holder)
    living = sum(1 for entry in agents.values() if is_active(entry.get("status")))
    if living >= limits.max_concurrent:
        raise LimitReached(f"{living} agents are alive, and {limits.max_concurrent} may be")


def enter_agent(
    document: Document, agent_id: str, entry: Mapping[str, Any], limits: Limits
) -> None:
    """Enter a living agent; checks its key and the limits."""
    agents = document.setdefault("agents", {})
    if agent_id not in agents:
        check_global_limits(document, entry.get("key"), limits)
        agents[agent_id] = dict(entry)


def leave_agent(document: Document, agent_id: str, status: str | None) -> bool:
    """
    Take an agent out, and count its end once, under *status*; None: it never was.

    Entry and count change together, so being there is what guards the count.
    """
    if document.get("agents", {}).pop(agent_id, None) is None:
        return False
    if status is not None:
        ended = document.setdefault("ended", {})
        ended[status] = ended.get(status, 0) + 1
    return True
