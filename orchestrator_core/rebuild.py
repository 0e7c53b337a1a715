"""
After a disaster: each record of an agent, made again from what else is known of it.

A journal that lost its intents is planned again from the agent's id. A registry
that was damaged is written again from the journals, open and closed, which hold
every record as it was first written and every end as it was reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core import ids
from orchestrator_core._clock import timestamp
from orchestrator_core.agents import ORCHESTRATOR, Status
from orchestrator_core.exceptions import JournalDamaged, NotFound, SagaNotFound
from orchestrator_core.records import find_agent
from orchestrator_core.saga import Context, Reason, State, step_name
from orchestrator_core.steps import undoing_steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator_core.saga import History, Sagas
    from orchestrator_core.world import World


def replanned(world: World, agent_id: str, labels: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the receipts that an agent's id leads to, by step name.

    Raises:
        NotFound: No task is known to have had such an agent.
    """
    task_id = labels.get("task_id") or _task_with(world, agent_id)
    document = world.task_registry(task_id).peek() or {}
    record = find_agent(document, agent_id) or _unknown_record(agent_id)
    values = {"task_id": task_id, "record": record, "entry": {"task_id": task_id}}
    context = Context(agent_id, values)
    return {step_name(step): step.plan(context) for step in undoing_steps(world)}


def _task_with(world: World, agent_id: str) -> str:
    for task_id in world.places.task_ids():
        document = world.task_registry(task_id).peek() or {}
        if find_agent(document, agent_id) or world.places.run(task_id, agent_id).exists():
            return task_id
    raise NotFound(f"no task is known to have had the agent {agent_id!r}")


def _unknown_record(agent_id: str) -> dict[str, Any]:
    return {
        "id": agent_id,
        "type": agent_id.rsplit("-", 2)[0],
        "tmux_session": ids.session_of(agent_id),
        "parent": ORCHESTRATOR,
        "status": Status.RUNNING.value,
    }


def task_document(world: World, sagas: Sagas, task_id: str) -> dict[str, Any]:
    """Return a task's registry, rebuilt from the journals of its agents."""
    records = sorted(_records(sagas, task_id), key=lambda record: record.get("started_at", ""))
    hierarchy: dict[str, list[str]] = {}
    for record in records:
        hierarchy.setdefault(record.get("parent", ORCHESTRATOR), []).append(record["id"])
    return {
        "task_id": task_id,
        "task_description": "",
        "created_at": timestamp(),
        "workspace": str(world.places.task(task_id)),
        "workspace_base": str(world.places.root),
        "status": "INITIALIZED",
        "agents": records,
        "agent_hierarchy": hierarchy,
    }


def _records(sagas: Sagas, task_id: str) -> Iterator[dict[str, Any]]:
    for history in _histories(sagas, (*sagas.journals.ids(), *sagas.journals.closed_ids())):
        frame = history.frame("register_task")
        if frame is None or frame.receipt.get("task_id") != task_id:
            continue
        record = {**frame.receipt["record"]}
        if history.why is not None:
            if history.why.reason is not Reason.TERMINAL:
                continue  # It never came to be.
            record |= {"status": history.why.detail["status"], "end_reason": history.why.message}
        elif history.state is not State.COMMITTED:
            continue
        yield record


def _histories(sagas: Sagas, saga_ids: Iterable[str]) -> Iterator[History]:
    for saga_id in saga_ids:
        try:
            yield sagas.history(saga_id)
        except (JournalDamaged, SagaNotFound):
            continue  # Recovery sees to it.
