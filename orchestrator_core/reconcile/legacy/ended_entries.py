"""
Who of the old system's agents counts against a limit.

It entered every agent among the living and took few out again. Such an entry does
not count if its task's registry says that the agent has ended, or if its task is
gone. That is looked up only when somebody would be refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from orchestrator_core.exceptions import InvalidId, LimitReached
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import is_legacy
from orchestrator_core.registry.operations import find_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document

T = TypeVar("T")


def retry_without_ended(context: RootContext, check: Callable[[Container[str]], T]) -> T:
    """
    Return what *check* does, which gets the agents that do not count: none, then all such.

    Raises:
        LimitReached: It is refused all the same.
    """
    try:
        return check(())
    except LimitReached:
        over = _over(context)
        if not over:
            raise
        return check(over)


def _over(context: RootContext) -> frozenset[str]:
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
