"""
After a disaster: what was lost, made again from what else is known of it.

A journal that lost its intents is planned again from the agent's id. A registry
that was damaged is written again from the journals, open and closed, which hold
every record as it was first written and every end as it was reported; and from
whatever can still be read of the damaged one, which is all there is of an agent
whose journal is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.steps import undoing_steps
from orchestrator_core.exceptions import NotFound, StorageError
from orchestrator_core.model import ids
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status
from orchestrator_core.reconcile.evidence import EvidenceStore
from orchestrator_core.reconcile.legacy.reconstruct import reconstruct_from_files
from orchestrator_core.reconcile.merge import merge_global, merge_task
from orchestrator_core.registry import new_global
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.registry.partial_parse import parse_what_is_left
from orchestrator_core.saga import Context, step_name
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.saga import Sagas


def derive_receipts(
    context: RootContext, agent_id: str, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Return the receipts that an agent's id leads to, by step name.

    Raises:
        NotFound: No task is known to have had such an agent.
    """
    task_id = labels.get("task_id") or _task_with(context, agent_id)
    document = context.task_registry(task_id).read_or_none() or {}
    record = find_agent(document, agent_id) or _unknown_record(agent_id)
    values = {"task_id": task_id, "record": record, "entry": {"task_id": task_id}}
    ids_only = Context(agent_id, values)
    return {step_name(step): step.plan(ids_only) for step in undoing_steps(context)}


def _task_with(context: RootContext, agent_id: str) -> str:
    for task_id in context.layout.task_ids():
        document = context.task_registry(task_id).read_or_none() or {}
        if find_agent(document, agent_id) or context.layout.run_dir(task_id, agent_id).exists():
            return task_id
    raise NotFound(f"no task is known to have had the agent {agent_id!r}")


def _unknown_record(agent_id: str) -> dict[str, Any]:
    return {
        "id": agent_id,
        "type": agent_id.rsplit("-", 2)[0],
        "tmux_session": ids.session_name(agent_id),
        "parent": ORCHESTRATOR,
        "status": Status.RUNNING.value,
    }


def task_document(
    context: RootContext,
    sagas: Sagas,
    task_id: str,
    *,
    present: Document | None = None,
    damaged: bytes | None = None,
    heard: EvidenceStore | None = None,
) -> Document:
    """
    Return a task's registry from all that is known: its journals, its older copies.

    *present* is the document as it is, if it can be used, and *damaged* its bytes
    if not, and if they are not among the kept ones yet.
    """
    registry = context.task_registry(task_id)
    listed = (context.global_registry.read_or_none() or {}).get("tasks", {}).get(task_id, {})
    otherwise = {
        "task_id": task_id,
        "task_description": listed.get("description", ""),
        "created_at": listed.get("created_at") or timestamp(),
        "workspace": str(context.layout.task(task_id)),
        "workspace_base": str(context.layout.root),
        "status": listed.get("status", "INITIALIZED"),
        "key": listed.get("key"),
        "max_agents": context.limits.max_agents,
        "max_depth": context.limits.max_depth,
        "max_concurrent": context.limits.max_concurrent,
    }
    told = (heard or EvidenceStore(context, sagas)).of(task_id)
    older = previous_versions(registry, damaged)
    if present is None:
        older.append(reconstruct_from_files(context, task_id, told))
    return merge_task(present, older, told, otherwise=otherwise)


def global_document(
    context: RootContext,
    sagas: Sagas,
    *,
    present: Document | None = None,
    damaged: bytes | None = None,
    heard: EvidenceStore | None = None,
) -> Document:
    """Return the global registry from all that is known; see :func:`task_document`."""
    return merge_global(
        present,
        previous_versions(context.global_registry, damaged),
        (heard or EvidenceStore(context, sagas)).of(),
        fresh=new_global(),
        tasks={
            task_id: context.task_registry(task_id).read_or_none()
            for task_id in context.layout.task_ids()
        },
    )


def previous_versions(registry: Registry, damaged: bytes | None = None) -> list[Document]:
    """Return what can be read of a registry's damaged and superseded copies, the newest first."""
    copies = [] if damaged is None else [parse_what_is_left(damaged, registry.schema)]
    for path in registry.quarantined():
        try:
            copies.append(parse_what_is_left(durable.read(path), registry.schema))
        except (FileNotFoundError, StorageError):
            continue  # A directory was in its place; or it is gone by now.
    return copies
