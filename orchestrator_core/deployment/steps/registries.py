"""
The steps that hold what the registries have of an agent: its record, its entry, its children.

A task's registry lists the agent and its children, the global registry lists the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.steps.base import DeploymentStep, task_and_agent
from orchestrator_core.exceptions import (
    ChildrenLeft,
    CouldNotAsk,
    LimitReached,
    NotFound,
    OrchestratorError,
    SagaBusy,
)
from orchestrator_core.model.outcome import ends_children, final_status, terminal_reason
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.registry.operations import (
    add_agent,
    add_live,
    children_of,
    end_agent,
    find_agent,
    is_finished,
    orphan_children,
    orphan_entries,
    remove_agent,
    remove_live,
)
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.saga.verification import naming_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from orchestrator_core.registry import Document, Registry
    from orchestrator_core.saga import Context


_SUMMARY = ("status", "reason", "by", "success")  #: Of a child's report.


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
        return TaskReceipt(*task_and_agent(ctx), record=ctx.values["record"])

    def verify(self, receipt: TaskReceipt, saga_id: str, labels: Mapping[str, Any]) -> TaskReceipt:
        """Return the agent that the saga's id names."""
        return TaskReceipt(*self.owner(saga_id, labels), record=receipt.record)

    def do(self, receipt: TaskReceipt) -> TaskReceipt:
        """Write the record, or refuse it by the limits."""
        with self.context.task_registry(receipt.task_id).transaction() as document:
            add_agent(document, receipt.record, self.context.limits)
        return receipt

    def undo(self, receipt: TaskReceipt, why: Unwind) -> Outcome:
        """Write the final status; or remove the record of an agent that never ran."""
        registry = self.context.task_registry(receipt.task_id)
        try:
            registry.restore()  # Somebody may have removed it while the agent lived.
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

    def verify(
        self, receipt: GlobalReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> GlobalReceipt:
        """Return the agent that the saga's id names."""
        return GlobalReceipt(agent_id=naming_id(saga_id, labels), entry=receipt.entry)

    def do(self, receipt: GlobalReceipt) -> GlobalReceipt:
        """Write the record, or refuse it by the limits."""
        try:
            self._add(receipt)
        except LimitReached:
            self._add(receipt, excluded=self.context.predecessor.ended_entries())
        return receipt

    def _add(self, receipt: GlobalReceipt, *, excluded: Container[str] = ()) -> None:
        limits = self.context.limits
        self.context.global_registry.restore()
        with self.context.global_registry.transaction() as document:
            add_live(document, receipt.agent_id, receipt.entry, limits, excluded=excluded)

    def undo(self, receipt: GlobalReceipt, why: Unwind) -> Outcome:
        """Remove the entry, and count the end of an agent that ran."""
        status = None if why.removes_everything else str(why.detail["status"])
        try:
            self.context.global_registry.restore()
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


# --- accept_children ------------------------------------------------------------------------------


@receipt("accept_children")
class ChildrenReceipt:
    """The agent whose children end with it; its task's registry lists them."""

    task_id: str
    agent_id: str


class OwnChildren(DeploymentStep):
    """
    Own the agents that are deployed with this agent as their parent.

    Nothing is done at first. The undo runs when the agent's record has ended, and a child
    looks for its parent under that registry's lock: no child joins those that are ended
    here. A record that another program made active again meanwhile is ended again.
    """

    receipt_type = ChildrenReceipt

    def plan(self, ctx: Context) -> ChildrenReceipt:
        """Name the agent."""
        return ChildrenReceipt(*task_and_agent(ctx))

    def verify(
        self, _receipt: ChildrenReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> ChildrenReceipt:
        """Return the agent that the saga's id names."""
        return ChildrenReceipt(*self.owner(saga_id, labels))

    def do(self, receipt: ChildrenReceipt) -> ChildrenReceipt:
        """Do nothing: children come later."""
        return receipt

    def undo(self, receipt: ChildrenReceipt, why: Unwind) -> Outcome:
        """End the children, theirs first; or release them to the orchestrator."""
        try:
            document = self._end_own_record(receipt, why)
            if not ends_children(why):
                return self._release_children(receipt)
        except NotFound:
            return Outcome.absent(registry="gone")
        children = [
            record["id"]
            for record in children_of(document, receipt.agent_id)
            if not is_finished(record) or _ended_by_parent(record)
        ]
        return self._end_children(children, receipt.agent_id, why)

    def _end_own_record(self, receipt: ChildrenReceipt, why: Unwind) -> Document:
        """Return the registry, in which the agent's own record has ended."""
        registry = self.context.task_registry(receipt.task_id)
        registry.restore()
        document = registry.read()
        if _is_active(document, receipt.agent_id):
            with registry.transaction() as changed:
                end_record(changed, receipt.agent_id, why)
            document = registry.read()
        if _is_active(document, receipt.agent_id):
            raise OrchestratorError(
                f"{receipt.agent_id!r} is active again in its registry: more children may come"
            )
        return document

    def _end_children(self, children: list[str], parent: str, why: Unwind) -> Outcome:
        """End the children one after another. A child that cannot be ended stops no other end."""
        if self.terminator is None:
            raise RuntimeError("a step without a terminator cannot end children")
        child_why = terminal_reason(
            Status.TERMINATED,
            f"its parent {parent} has ended",
            by="parent",
            keep_logs=why.detail.get("keep_logs", True),
        )
        results: list[dict[str, Any]] = []
        any_busy = False
        for child in children:
            try:
                report = self.terminator.terminate_child(child, child_why)
            except NotFound:
                continue  # No saga accounts for this child; the sweep finds it.
            except Exception as error:  # noqa: BLE001 - see above
                any_busy = any_busy or isinstance(error, SagaBusy)
                results.append({"agent_id": child, "success": False, "errors": [str(error)]})
            else:
                summary = {name: getattr(report, name) for name in _SUMMARY}
                results.append({"agent_id": child, **summary, "errors": list(report.errors)})
        return _outcome(results, any_busy=any_busy)

    def _release_children(self, receipt: ChildrenReceipt) -> Outcome:
        own = receipt.agent_id
        with self.context.task_registry(receipt.task_id).transaction() as document:
            adopted = orphan_children(document, own)
        with self.context.global_registry.transaction() as document:
            orphan_entries(document, own)
        return Outcome.left(adopted=adopted) if adopted else Outcome.absent()

    def probe(self, receipt: ChildrenReceipt) -> Presence:
        """Return whether there are children that have not ended."""
        return _presence_of(
            self.context.task_registry(receipt.task_id),
            lambda doc: not all(map(is_finished, children_of(doc, receipt.agent_id))),
        )


def _is_active(document: Document, agent_id: str) -> bool:
    record = find_agent(document, agent_id)
    return record is not None and is_active(record.get("status"))


def _outcome(results: list[dict[str, Any]], *, any_busy: bool) -> Outcome:
    """
    Return the outcome of all children's ends.

    Raises:
        ChildrenLeft: Some children have not ended.
    """
    left = {
        result["agent_id"]: "; ".join(result["errors"])
        for result in results
        if not result["success"]
    }
    if left:
        raise ChildrenLeft(
            "not ended: " + "; ".join(f"{child} ({error})" for child, error in left.items()),
            leaked=left,
            detail={"children": results},
            # A busy child's owner may be a process of this agent, which ends next. To retry
            # otherwise would take twice as long with every generation.
            retry_at_once=any_busy,
        )
    return Outcome.undone(children=results) if results else Outcome.absent()


def _ended_by_parent(record: dict[str, Any]) -> bool:
    """Return whether an earlier try of this undo ended a child, which the report then has, too."""
    result = record.get("auto_cleanup_result")
    return isinstance(result, dict) and result.get("by") == "parent"


# --- what the probes share ------------------------------------------------------------------------


def _presence_of(registry: Registry, holds: Callable[[dict[str, Any]], bool]) -> Presence:
    try:
        return Presence.OURS if holds(registry.read()) else Presence.ABSENT
    except NotFound:
        return Presence.ABSENT
    except CouldNotAsk:
        return Presence.UNKNOWN
