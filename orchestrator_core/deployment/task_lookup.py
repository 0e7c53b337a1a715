"""The task of each agent, from the environment, its journal or the registries."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import NotFound, SagaNotFound
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext


def find_record(
    context: RootContext, agent_id: str, *, rebuild: bool = False
) -> tuple[str, dict[str, Any]] | None:
    """
    Return an agent's task and record; None if no registry has it.

    A damaged registry is skipped, or rebuilt with *rebuild*.
    """
    for task_id in context.layout.task_ids():
        registry = context.task_registry(task_id)
        document = registry.read() if rebuild else registry.read_or_none()
        record = find_agent(document or {}, agent_id)
        if record is not None:
            return task_id, record
    return None


def task_of(context: RootContext, agent_id: str) -> str:
    """
    Return the id of an agent's task.

    Raises:
        NotFound: There is no such agent.
    """
    if agent_id == os.environ.get(ENV_AGENT) and ENV_TASK in os.environ:
        return check_id("task", os.environ[ENV_TASK])
    with contextlib.suppress(SagaNotFound):
        task_id = context.journals.history(agent_id).labels.get("task_id")
        if task_id:
            return str(task_id)
    # A legacy agent has no journal, and a journal that was damaged may lack its labels.
    found = find_record(context, agent_id, rebuild=True)
    if found is None:
        raise NotFound(f"there is no agent {agent_id!r}")
    return found[0]
