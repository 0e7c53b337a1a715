"""The steps that hold an agent's record in its task, and its entry in the global registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.steps.base import DeploymentStep, task_and_agent
from orchestrator_core.exceptions import CouldNotAsk, LimitReached, NotFound
from orchestrator_core.model.status import Status
from orchestrator_core.registry.operations import (
    add_agent,
    add_live,
    end_agent,
    remove_agent,
    remove_live,
)
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.saga import Context


@receipt("register_task")
class TaskReceipt:
    """The first record; a lost registry is rebuilt from it."""

    task_id: str
    agent_id: str
    record: dict[str, Any]


class RegisterTask(DeploymentStep):
    """Add the agent to its task's registry, whose lock makes the limits exact."""

    receipt_type = TaskReceipt

    def plan(self, ctx: Context) -> TaskReceipt:
        """Take the record from the context."""
        task_id, agent_id = task_and_agent(ctx)
        return TaskReceipt(task_id=task_id, agent_id=agent_id, record=ctx.values["record"])

    def do(self, receipt: TaskReceipt) -> TaskReceipt:
        """Write the record, or refuse it by the limits."""
        with self.context.task_registry(receipt.task_id).transaction() as document:
            add_agent(document, receipt.record, self.context.limits)
        return receipt

    def undo(self, receipt: TaskReceipt, why: Unwind) -> Outcome:
        """Write the final status; or remove the record of an agent that never ran."""
        registry = self.context.task_registry(receipt.task_id)
        try:
            with registry.transaction() as document:
                changed = end_record(document, receipt.agent_id, why)
        except NotFound:
            return Outcome.absent(registry="gone")
        return Outcome.undone() if changed else Outcome.absent()

    def probe(self, receipt: TaskReceipt) -> Presence:
        """Return whether the record exists."""
        return _presence_of(
            self.context.task_registry(receipt.task_id),
            lambda doc: any(entry.get("id") == receipt.agent_id for entry in doc["agents"]),
        )


def end_record(document: Document, agent_id: str, why: Unwind) -> bool:
    """Write an agent's final status, or remove its record; False if that was done before."""
    if why.removes_everything:
        return remove_agent(document, agent_id)
    return end_agent(document, agent_id, final_status(why))


def final_status(why: Unwind) -> dict[str, Any]:
    """Return the fields of an end, under the names that people's tools know."""
    now = timestamp()
    status = why.detail["status"]
    end = {
        "status": status,
        "completed_at": now,
        "last_update": now,
        "end_reason": why.message,
        "exit_code": why.detail.get("exit_code"),
        "exit_signal": why.detail.get("exit_signal"),
    }
    if status == Status.TERMINATED.value:
        end |= {"terminated_at": now, "termination_reason": why.message}
    return end


# --- register_global -----------------------------------------------------------------------------


@receipt("register_global")
class GlobalReceipt:
    """The first entry."""

    agent_id: str
    entry: dict[str, Any]


class RegisterGlobal(DeploymentStep):
    """Add the agent to the live agents of this root."""

    receipt_type = GlobalReceipt

    def plan(self, ctx: Context) -> GlobalReceipt:
        """Take the entry from the context."""
        return GlobalReceipt(agent_id=ctx.saga_id, entry=ctx.values["entry"])

    def do(self, receipt: GlobalReceipt) -> GlobalReceipt:
        """Write the record, or refuse it by the limits."""
        try:
            self._add(receipt)
        except LimitReached:
            self._add(receipt, excluded=self.context.predecessor.ended_entries())
        return receipt

    def _add(self, receipt: GlobalReceipt, *, excluded: Container[str] = ()) -> None:
        limits = self.context.limits
        with self.context.global_registry.transaction() as document:
            add_live(document, receipt.agent_id, receipt.entry, limits, excluded=excluded)

    def undo(self, receipt: GlobalReceipt, why: Unwind) -> Outcome:
        """Remove the entry, and count the end of an agent that ran."""
        status = None if why.removes_everything else str(why.detail["status"])
        try:
            with self.context.global_registry.transaction() as document:
                removed = remove_live(document, receipt.agent_id, status)
        except NotFound:
            return Outcome.absent()
        return Outcome.undone() if removed else Outcome.absent()

    def probe(self, receipt: GlobalReceipt) -> Presence:
        """Return whether the entry exists."""
        return _presence_of(
            self.context.global_registry, lambda doc: receipt.agent_id in doc.get("agents", {})
        )


def _presence_of(registry: Registry, holds: Callable[[dict[str, Any]], bool]) -> Presence:
    try:
        return Presence.OURS if holds(registry.read()) else Presence.ABSENT
    except NotFound:
        return Presence.ABSENT
    except CouldNotAsk:
        return Presence.UNKNOWN
