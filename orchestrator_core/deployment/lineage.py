"""
The lineage of a new agent: its parent, and its least depth below the orchestrator.

A process inside an agent deploys that agent's children, by default and without an argument.
The depth counts from the agent around the deploying process, whatever parent or task it
names: neither is a way around the limit.
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
    """The origin of an agent that is to be deployed."""

    parent: str
    min_depth: int = 1  #: One below the deploying agent; a parent may be deeper.


def resolve_lineage(context: RootContext, task_id: str, spec: AgentSpec) -> Lineage:
    """
    Return the lineage of an agent that this process deploys for a task.

    Raises:
        NotFound: The environment names an agent around this process that its task lacks.
    """
    around = _current_agent(context)
    if around is None:
        return Lineage(spec.parent or ORCHESTRATOR)
    own_task, own_id = around
    # A hierarchy is within one task: an agent has no parent in another.
    parent = spec.parent or (own_id if own_task == task_id else ORCHESTRATOR)
    record = find_agent(context.task_registry(own_task).read(), own_id)
    if record is None:
        raise NotFound(
            f"the environment says that this process is inside the agent {own_id!r}, "
            f"and its task {own_task!r} has no such agent",
            hint=f"unset {ENV_AGENT} if this process is not inside an agent",
        )
    return Lineage(parent, min_depth=depth_of(record) + 1)


def _current_agent(context: RootContext) -> tuple[str, str] | None:
    """Return the task and the id of the agent of this root around this process, if any."""
    root, task_id, agent_id = map(os.environ.get, (ENV_ROOT, ENV_TASK, ENV_AGENT))
    if not (root and task_id and agent_id) or not _same_root(root, context.layout.root):
        return None
    return check_id("task", task_id), check_id("agent", agent_id)


def _same_root(named: str, root: Path) -> bool:
    try:
        return paths.resolve(Path(named)) == root
    except OSError:
        return False
