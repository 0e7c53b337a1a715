"""The step that holds an agent's children, which end before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from orchestrator_core.deployment.steps.base import DeploymentStep, task_and_agent
from orchestrator_core.deployment.steps.registries import end_record
from orchestrator_core.exceptions import (
    ChildrenLeft,
    CouldNotAsk,
    NotFound,
    OrchestratorError,
    SagaBusy,
)
from orchestrator_core.model.outcome import ends_children, terminal_reason
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.registry.operations import (
    children_of,
    find_agent,
    is_finished,
    orphan_children,
    orphan_entries,
)
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt

if TYPE_CHECKING:
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.registry import Document
    from orchestrator_core.saga import Context


_SUMMARY = ("status", "reason", "by", "success")  #: Of a child's report.


class ChildTerminator(Protocol):
    """The part of the terminator that ends a child with its parent."""

    def terminate_child(self, agent_id: str, why: Unwind) -> EndReport:
        """End an agent for *why*; one that is dead already keeps its own end."""


@receipt("accept_children")
class ChildrenReceipt:
    """The agent whose children end with it; its task's registry lists them."""

    task_id: str
    agent_id: str


@attrs.frozen
class OwnChildren(DeploymentStep):
    """
    Own the agents that are deployed with this agent as their parent.

    Nothing is done at first. The undo runs when the agent's record has ended, and a child
    looks for its parent under that registry's lock: no child joins those that are ended
    here. A record that another program made active again meanwhile is ended again.
    """

    receipt_type = ChildrenReceipt

    terminator: ChildTerminator | None = None

    def plan(self, ctx: Context) -> ChildrenReceipt:
        """Name the agent."""
        task_id, agent_id = task_and_agent(ctx)
        return ChildrenReceipt(task_id=task_id, agent_id=agent_id)

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
        """Look for children that have not ended."""
        try:
            document = self.context.task_registry(receipt.task_id).read()
        except NotFound:
            return Presence.ABSENT
        except CouldNotAsk:
            return Presence.UNKNOWN
        finished = map(is_finished, children_of(document, receipt.agent_id))
        return Presence.ABSENT if all(finished) else Presence.OURS


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
    return bool((record.get("auto_cleanup_result") or {}).get("by") == "parent")
