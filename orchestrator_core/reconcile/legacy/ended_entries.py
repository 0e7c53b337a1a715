"""
Who of the old system's agents counts against a limit.

It entered every agent among the living and took few out again. Such an entry does
not count if its task's registry says that the agent has ended, or if its task is
gone. That is looked up only when somebody would be refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import is_legacy
from orchestrator_core.registry.operations import find_agent

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document


def ended_entries(context: RootContext) -> frozenset[str]:
    """Return the legacy agents among the live entries that have ended."""
    entries = (context.global_registry.read_or_none() or {}).get("agents", {})
    old = {name: entry for name, entry in entries.items() if is_legacy(entry)}
    tasks = {str(entry.get("task_id")) for entry in old.values()}
    documents = {task_id: _document(context, task_id) for task_id in tasks}
    return frozenset(
        name
        for name, entry in old.items()
        if _has_ended(documents[str(entry.get("task_id"))], name)
    )


def _document(context: RootContext, task_id: str) -> Document | None:
    """Return a task's registry; one without agents if it is gone; None if it is unknown."""
    try:
        path = context.layout.task_registry(task_id)
    except InvalidId:
        return {}
    return context.task_registry(task_id).read_or_none() if path.parent.is_dir() else {}


def _has_ended(document: Document | None, agent_id: str) -> bool:
    if document is None:
        return False
    record = find_agent(document, agent_id)
    return record is None or not is_active(record.get("status"))
