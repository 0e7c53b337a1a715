"""
Whose child an agent is, and how deep below the orchestrator.

Who deploys from inside an agent deploys a child of it, without saying so: what is
not asked for cannot be forgotten. And the depth is counted from where the deploying
process really is. A limit that another parent's name, or another task, would
walk around is none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import NotFound
from orchestrator_core.model.environment import ENV_AGENT, ENV_ROOT, ENV_TASK, ORCHESTRATOR
from orchestrator_core.registry.operations import depth_of, find_agent
from orchestrator_core.system import paths
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.spec import AgentSpec


@attrs.frozen
class Lineage:
    """Where an agent that is to be deployed comes from."""

    parent: str
    min_depth: int = 1  #: Its depth, unless its parent is deeper: one below who deploys it.


def resolve_lineage(context: RootContext, task_id: str, spec: AgentSpec) -> Lineage:
    """
    Return where an agent comes from that this process deploys for a task.

    Raises:
        NotFound: We are inside an agent, by our environment, that its task does not know.
    """
    inside = _current_agent(context)
    if inside is None:
        return Lineage(spec.parent or ORCHESTRATOR)
    own_task, own_id = inside
    # A hierarchy is within one task: another task's agent has none of ours for a parent.
    own = own_id if own_task == task_id else ORCHESTRATOR
    return Lineage(spec.parent or own, min_depth=_depth(context, own_task, own_id) + 1)


def _current_agent(context: RootContext) -> tuple[str, str] | None:
    """Return the task and the id of the agent of this root that we are inside of, if we are."""
    root, task_id, agent_id = map(os.environ.get, (ENV_ROOT, ENV_TASK, ENV_AGENT))
    if not (root and task_id and agent_id) or not _same_root(root, context.layout.root):
        return None
    return check_id("task", task_id), check_id("agent", agent_id)


def _same_root(root: str, place: Path) -> bool:
    try:
        return paths.resolve(Path(root)) == place
    except OSError:
        return False


def _depth(context: RootContext, task_id: str, agent_id: str) -> int:
    record = find_agent(context.task_registry(task_id).read(), agent_id)
    if record is None:
        raise NotFound(
            f"we are inside the agent {agent_id!r}, says the environment, "
            f"and its task {task_id!r} does not know it",
            hint=f"unset {ENV_AGENT} if that is not so",
        )
    return depth_of(record)
