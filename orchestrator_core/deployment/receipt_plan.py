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
    task_id = labels.get("task_id")
    for name in [task_id] if task_id else context.layout.task_ids():
        record = find_agent(context.task_registry(name).read_or_none() or {}, agent_id)
        if record or task_id or context.layout.run_dir(name, agent_id).exists():
            record = record or unknown_record(agent_id)
            values = {"task_id": name, "record": record, "entry": {"task_id": name}}
            return plan_receipts(context, agent_id, values)
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
