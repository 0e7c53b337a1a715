"""The steps that hold an agent's record in its task, and its entry among the living."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.predecessor import retry_without_ended
from orchestrator_core.deployment.steps.base import DeploymentStep, task_and_agent
from orchestrator_core.exceptions import CouldNotAsk, NotFound
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
    """The record, as it was first written; a lost registry is rebuilt from it."""

    task_id: str
    agent_id: str
    record: dict[str, Any]


class RegisterTask(DeploymentStep):
    """Enter the agent in its task's registry, under whose lock the limits hold."""

    receipt_type = TaskReceipt

    def plan(self, ctx: Context) -> TaskReceipt:
        """Fix the record."""
        task_id, agent_id = task_and_agent(ctx)
        return TaskReceipt(task_id=task_id, agent_id=agent_id, record=ctx.values["record"])

    def do(self, receipt: TaskReceipt) -> TaskReceipt:
        """Write it."""
        with self.context.task_registry(receipt.task_id).transaction() as document:
            add_agent(document, receipt.record, self.context.limits)
        return receipt

    def undo(self, receipt: TaskReceipt, why: Unwind) -> Outcome:
        """Give it its final status; or take it out, if it never came to be."""
        registry = self.context.task_registry(receipt.task_id)
        try:
            with registry.transaction() as document:
                changed = end_record(document, receipt.agent_id, why)
        except NotFound:
            return Outcome.absent(registry="gone")
        return Outcome.undone() if changed else Outcome.absent()

    def probe(self, receipt: TaskReceipt) -> Presence:
        """Look for the record."""
        return _presence_of(
            self.context.task_registry(receipt.task_id),
            lambda doc: any(entry.get("id") == receipt.agent_id for entry in doc["agents"]),
        )


def end_record(document: Document, agent_id: str, why: Unwind) -> bool:
    """Give an agent its final status, or take it out; False if that was done already."""
    if why.removes_everything:
        return remove_agent(document, agent_id)
    return end_agent(document, agent_id, final_status(why))


def final_status(why: Unwind) -> dict[str, Any]:
    """Return what a record says of an end, in the names that people's tools know."""
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
    """The entry, as it was first written."""

    agent_id: str
    entry: dict[str, Any]


class RegisterGlobal(DeploymentStep):
    """Enter the agent among the living of this root."""

    receipt_type = GlobalReceipt

    def plan(self, ctx: Context) -> GlobalReceipt:
        """Fix the entry."""
        return GlobalReceipt(agent_id=ctx.saga_id, entry=ctx.values["entry"])

    def do(self, receipt: GlobalReceipt) -> GlobalReceipt:
        """Write it."""

        def enter(over: Container[str]) -> None:
            own, limits = receipt.agent_id, self.context.limits
            with self.context.global_registry.transaction() as document:
                add_live(document, own, receipt.entry, limits, excluded=over)

        retry_without_ended(self.context.predecessor, enter)
        return receipt

    def undo(self, receipt: GlobalReceipt, why: Unwind) -> Outcome:
        """Take it out, and count the end of a life that was one."""
        status = None if why.removes_everything else str(why.detail["status"])
        try:
            with self.context.global_registry.transaction() as document:
                removed = remove_live(document, receipt.agent_id, status)
        except NotFound:
            return Outcome.absent()
        return Outcome.undone() if removed else Outcome.absent()

    def probe(self, receipt: GlobalReceipt) -> Presence:
        """Look for the entry."""
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
