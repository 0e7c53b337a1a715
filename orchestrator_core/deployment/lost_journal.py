"""
Restore the journal of a living agent whose journal was removed.

Three sources name a living agent: its journal, its task's registry and the global registry.
If the journal is missing, the others lead to it, and the kernel confirms that it lives: its
supervisor holds the lock on its run directory. The new journal has the receipts that the
agent's id leads to, and the labels that its record has. What an extra step held is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.receipt_plan import derive_receipts
from orchestrator_core.deployment.task_lookup import find_record
from orchestrator_core.exceptions import SagaExists
from orchestrator_core.model.status import is_active
from orchestrator_core.supervisor import run_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.steps.session import SessionReceipt
    from orchestrator_core.saga import Sagas

_LABELS = ("type", "preset", "parent", "deadline_at", "silent_after_s")


def restore_journal(context: RootContext, sagas: Sagas, agent_id: str) -> bool:
    """
    Write an agent's journal anew, durably, if the agent lives and has none; return whether it was.

    Raises:
        CouldNotAsk: It lives, and its supervisor could not be found. Nothing was changed.
        StorageError: The journal could not be written; there is none.
    """
    found = _task_and_record(context, agent_id)
    if found is None:
        return False
    task_id, record = found
    run_dir = context.layout.run_dir(task_id, agent_id)
    if not run_dir.is_dir() or run_lock.is_free(str(run_dir)):
        return False  # Dead, or of an older release.
    receipts = derive_receipts(context, agent_id, {"task_id": task_id})
    session: SessionReceipt = receipts["spawn_tmux"]
    # Raises if the supervisor lives where it cannot be seen, in another pid namespace say.
    supervisor = context.processes.find_supervisor(session.selector)
    if supervisor is None:
        return False  # It has died meanwhile.
    receipts["spawn_tmux"] = attrs.evolve(session, supervisor=supervisor)
    labels = {"task_id": task_id, **{name: record.get(name) for name in _LABELS}}
    try:
        sagas.create_committed(agent_id, receipts, labels=labels).release()
    except SagaExists:
        return False  # Another process has restored it.
    return True


def _task_and_record(context: RootContext, agent_id: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the task and the record, or the entry, of an agent that is recorded as alive."""
    found = find_record(context, agent_id)
    if found is None:
        entries = (context.global_registry.read_or_none() or {}).get("agents", {})
        entry = entries.get(agent_id)
        found = None if entry is None else (str(entry.get("task_id")), entry)
    if (
        found is None
        or not is_active(found[1].get("status"))
        or context.predecessor.wrote(found[1])
    ):
        return None
    return found
