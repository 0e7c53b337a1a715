"""The receipts that an agent's id leads to, for an agent whose journal has lost its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.steps import STEPS
from orchestrator_core.exceptions import NotFound
from orchestrator_core.model import ids
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.saga.planning import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext


def plan_receipts(context: RootContext, agent_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the planned receipts of all steps by step name. Nothing is done."""
    return plan(agent_id, [step(context) for step in STEPS], values)


def derive_receipts(
    context: RootContext, agent_id: str, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Return the receipts that an agent's id leads to, with the record that its task has of it.

    Raises:
        NotFound: No task is known to have had such an agent.
    """
    task_id = labels.get("task_id") or _task_with(context, agent_id)
    document = context.task_registry(task_id).read_or_none() or {}
    record = find_agent(document, agent_id) or unknown_record(agent_id)
    values = {"task_id": task_id, "record": record, "entry": {"task_id": task_id}}
    return plan_receipts(context, agent_id, values)


def _task_with(context: RootContext, agent_id: str) -> str:
    for task_id in context.layout.task_ids():
        document = context.task_registry(task_id).read_or_none() or {}
        if find_agent(document, agent_id) or context.layout.run_dir(task_id, agent_id).exists():
            return task_id
    raise NotFound(f"no task is known to have had the agent {agent_id!r}")


def unknown_record(agent_id: str) -> dict[str, Any]:
    """Return the record of a live agent of which only the id is known."""
    return {
        "id": agent_id,
        "type": agent_id.rsplit("-", 2)[0],
        "tmux_session": ids.session_name(agent_id),
        "parent": ORCHESTRATOR,
        "status": Status.RUNNING.value,
    }
