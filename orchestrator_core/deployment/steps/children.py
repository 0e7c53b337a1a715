"""The step that holds an agent's children, which end before it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from collections.abc import Callable

    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.registry.operations import Document
    from orchestrator_core.saga import Context


@receipt("accept_children")
class ChildrenReceipt:
    """Whose children are to end with it; its task's registry knows them."""

    task_id: str
    agent_id: str


class OwnChildren(DeploymentStep):
    """
    Take on whatever is deployed with the agent as its parent.

    Nothing is to be done for it. It is undone when the agent's record has ended, under
    whose lock a child looks for its parent: so nobody joins those that are ended here.
    A record that somebody has put back to life meanwhile is ended again.
    """

    receipt_type = ChildrenReceipt

    def plan(self, ctx: Context) -> ChildrenReceipt:
        """Name the agent."""
        task_id, agent_id = task_and_agent(ctx)
        return ChildrenReceipt(task_id=task_id, agent_id=agent_id)

    def do(self, receipt: ChildrenReceipt) -> ChildrenReceipt:
        """Wait for children to come."""
        return receipt

    def undo(self, receipt: ChildrenReceipt, why: Unwind) -> Outcome:
        """End its children, theirs first; or let them live on as the orchestrator's."""
        registry = self.context.task_registry(receipt.task_id)
        try:
            document = registry.read()
            own = find_agent(document, receipt.agent_id)
            if own is not None and is_active(own.get("status")):
                with registry.transaction() as changed:
                    end_record(changed, receipt.agent_id, why)
                document = registry.read()
                own = find_agent(document, receipt.agent_id)
            if own is not None and is_active(own.get("status")):
                raise OrchestratorError(
                    f"{receipt.agent_id!r} is active again in its registry: more children may come"
                )
            ending = self._end_all if ends_children(why) else self._release_children
            return ending(receipt, document, why)
        except NotFound:
            return Outcome.absent(registry="gone")

    def _end_all(self, receipt: ChildrenReceipt, document: Document, why: Unwind) -> Outcome:
        family = _ChildTermination(receipt.agent_id, why, self._end_child)
        for record in children_of(document, receipt.agent_id):
            family.end(record)
        return family.outcome()

    def _end_child(self, agent_id: str, why: Unwind) -> EndReport:
        if self.context.end_child is None:
            raise RuntimeError("a step undone without a lifecycle cannot end children")
        return self.context.end_child(agent_id, why)

    def _release_children(
        self, receipt: ChildrenReceipt, _document: Document, _why: Unwind
    ) -> Outcome:
        own = receipt.agent_id
        with self.context.task_registry(receipt.task_id).transaction() as document:
            adopted = orphan_children(document, own)
        with self.context.global_registry.transaction() as document:
            orphan_entries(document, own)
        return Outcome.left(adopted=adopted) if adopted else Outcome.absent()

    def probe(self, receipt: ChildrenReceipt) -> Presence:
        """Look for children that are not over."""
        try:
            document = self.context.task_registry(receipt.task_id).read()
        except NotFound:
            return Presence.ABSENT
        except CouldNotAsk:
            return Presence.UNKNOWN
        over = map(is_finished, children_of(document, receipt.agent_id))
        return Presence.ABSENT if all(over) else Presence.OURS


@attrs.define
class _ChildTermination:
    """The children of one agent, being ended one after another."""

    parent: str
    why: Unwind
    end_child: Callable[[str, Unwind], EndReport]
    results: list[dict[str, Any]] = attrs.field(factory=list)  #: What became of each, in short.
    any_busy: bool = False

    def end(self, record: dict[str, Any]) -> None:
        """End one child; that it cannot be ended strands no other."""
        if is_finished(record) and not _ended_by_parent(record):
            return
        child = record["id"]
        why = terminal_reason(
            Status.TERMINATED,
            f"its parent {self.parent} has ended",
            by="parent",
            keep_logs=self.why.detail.get("keep_logs", True),
        )
        try:
            report = self.end_child(child, why)
        except NotFound:
            return  # No saga accounts for it: it is the sweeper's to find.
        except Exception as error:  # noqa: BLE001 - one that cannot be ended strands no other
            self.any_busy = self.any_busy or isinstance(error, SagaBusy)
            self.results.append({"agent_id": child, "success": False, "errors": [str(error)]})
        else:
            self.results.append(
                {
                    "agent_id": child,
                    "status": report.status,
                    "reason": report.reason,
                    "by": report.by,
                    "success": report.success,
                    "errors": list(report.errors),
                }
            )

    def outcome(self) -> Outcome:
        """
        Return what became of them.

        Raises:
            ChildrenLeft: Some are not over.
        """
        left = {
            one["agent_id"]: "; ".join(one["errors"]) for one in self.results if not one["success"]
        }
        if left:
            raise ChildrenLeft(
                "not ended: " + "; ".join(f"{child} ({error})" for child, error in left.items()),
                leaked=left,
                detail={"children": self.results},
                # Who held one may be a process of the agent itself, which is ended next; but
                # to try each level twice would take twice as long with every generation.
                retry_at_once=self.any_busy,
            )
        return Outcome.undone(children=self.results) if self.results else Outcome.absent()


def _ended_by_parent(record: dict[str, Any]) -> bool:
    """Tell whether a child was ended by an earlier try: it belongs into the report of this one."""
    return bool((record.get("auto_cleanup_result") or {}).get("by") == "parent")
