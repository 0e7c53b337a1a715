"""
The tools by which an agent tells of itself: how far it is, and what it has found.

Inside an agent, in a server that is its child, its ids need not be given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp import schemas, views
from orchestrator_core.mcp.annotations import ADDS, OwnId, OwnTask, Severity
from orchestrator_core.mcp.worker import errors_as_results, run
from orchestrator_core.model.environment import ENV_AGENT

if TYPE_CHECKING:
    from mcp.types import ToolAnnotations

    from orchestrator_core.deployment.reports import ReportReceipt
    from orchestrator_core.model.records import Agent
    from orchestrator_core.orchestrator import Orchestrator


class OwnTools:
    """The tools of whoever is an agent."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orch = orchestrator

    def all(self) -> list[tuple[Any, ToolAnnotations]]:
        """Return each of them, with what a client may know of it before it is called."""
        return [(self.update_agent_progress, ADDS), (self.report_agent_finding, ADDS)]

    @errors_as_results
    async def update_agent_progress(
        self,
        status: Annotated[
            str,
            Field(
                description="running, working or blocked; or, at its end, completed, failed, "
                "error or terminated, which ends the agent."
            ),
        ],
        message: Annotated[str, Field(description="What it is doing, or has done.")] = "",
        progress: Annotated[
            int | None, Field(description="How far it is, per cent; by default as before.")
        ] = None,
        task_id: OwnTask = "",
        agent_id: OwnId = "",
    ) -> schemas.ReportProgressResult:
        """
        Record what an agent is up to. Call this yourself, about yourself, as you work.

        A terminal status ends the agent and gives back all it holds: make it your last
        call. From inside the agent you have your answer before that happens.
        """

        def report() -> schemas.ReportProgressResult:
            agent, document = self._whose(task_id, agent_id)
            receipt = self._orch.report_progress(
                agent.id, status, message=message, progress=progress
            )
            _insist_on_recorded(receipt)
            if receipt.end is not None:
                document = views.document_of(self._orch, agent.task_id)
            told: schemas.ReportProgressResult = {
                "success": True,
                "own_update": {
                    "timestamp": str(receipt.line.get("timestamp", "")),
                    "agent_id": agent.id,
                    "status": status,
                    "progress": agent.progress if progress is None else progress,
                    "message": message,
                },
                "coordination_info": views.coordination(self._orch, agent.task_id, document),
            }
            if receipt.end is not None:
                told["handed_over"] = receipt.end.handed_over
            return told

        return await run(report)

    @errors_as_results
    async def report_agent_finding(
        self,
        finding_type: Annotated[str, Field(description="issue, solution, insight, question, …")],
        severity: Severity,
        message: Annotated[str, Field(description="What was found.")],
        data: Annotated[
            dict[str, Any] | None, Field(description="Whatever else belongs to it.")
        ] = None,
        task_id: OwnTask = "",
        agent_id: OwnId = "",
    ) -> schemas.ReportFindingResult:
        """Record something that an agent has found, for its siblings and whoever deployed it."""

        def report() -> schemas.ReportFindingResult:
            agent, document = self._whose(task_id, agent_id)
            receipt = self._orch.report_finding(
                agent.id, message, finding_type=finding_type, severity=severity, data=data
            )
            _insist_on_recorded(receipt)
            return {
                "success": True,
                "own_finding": views.finding(receipt.line),
                "coordination_info": views.coordination(self._orch, agent.task_id, document),
            }

        return await run(report)

    def _whose(self, task_id: str, agent_id: str) -> tuple[Agent, dict[str, Any]]:
        """
        Return the agent that a report is about, and its task's registry, as it is before that.

        Who leaves the ids empty is inside of it.
        """
        agent_id = agent_id or os.environ.get(ENV_AGENT, "")
        if not agent_id:
            raise InvalidInput(
                "which agent is it about? This server does not run inside of one",
                hint="give your task_id and your agent_id",
            )
        task_id = task_id or self._orch.agent(agent_id).task_id
        return views.agent_and_document(self._orch, task_id, agent_id)


def _insist_on_recorded(receipt: ReportReceipt) -> None:
    """
    See that a report was recorded.

    Raises:
        InvalidInput: The agent had ended before.
    """
    if not receipt.recorded:
        ended = "" if receipt.end is None else f", as {receipt.end.status}: {receipt.end.reason}"
        raise InvalidInput(
            f"agent {receipt.agent_id!r} has ended{ended}; nothing was recorded",
            hint="its first end counts; report for an agent that lives",
        )
