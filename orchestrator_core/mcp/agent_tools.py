"""
The tools that an agent calls about itself: its progress, and its findings.

A server that is a child process of an agent needs no ids: they are in its environment.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, cast

from orchestrator_core.exceptions import InvalidInput, NotFound
from orchestrator_core.mcp import parameters as params
from orchestrator_core.mcp import schemas, views
from orchestrator_core.mcp.synonyms import severity_named, status_named
from orchestrator_core.model.environment import ENV_AGENT, ENV_ROOT

if TYPE_CHECKING:
    from orchestrator_core.aio import AsyncOrchestrator
    from orchestrator_core.deployment.reports import ReportReceipt
    from orchestrator_core.model.records import Agent


_NAMED = ("the argument", ENV_ROOT, "CLAUDE_ORCHESTRATOR_WORKSPACE")  #: No root was guessed.


class AgentTools:
    """The tools of an agent."""

    def __init__(self, orchestrator: AsyncOrchestrator) -> None:
        self._orch = orchestrator

    def all(self) -> list[tuple[Any, params.Hints]]:
        """Return each tool with its annotations."""
        return [(self.update_agent_progress, params.ADDS), (self.report_agent_finding, params.ADDS)]

    async def update_agent_progress(
        self,
        status: params.Status,
        message: params.Message = "",
        progress: params.Progress = None,
        task_id: params.OwnTask = "",
        agent_id: params.OwnId = "",
    ) -> schemas.ReportProgressResult:
        """
        Record an agent's progress. Call this yourself, about yourself, as you work.

        A terminal status ends the agent and gives back all it holds: make it your last
        call. From inside the agent you have your answer before that happens.
        """
        agent = await self._agent(task_id, agent_id)
        status, percent = status_named(status), _per_cent(progress)
        receipt = await self._orch.report_progress(
            agent.id, status, message=message, progress=percent
        )
        _raise_if_not_recorded(receipt)
        result: schemas.ReportProgressResult = {
            "success": True,
            "own_update": {
                "timestamp": receipt.line["timestamp"],
                "agent_id": agent.id,
                "status": status,
                "progress": agent.progress if percent is None else percent,
                "message": message,
            },
            "coordination_info": await views.coordination(self._orch, agent.task_id),
        }
        if progress is not None and progress != percent:
            result["validation_warnings"] = [f"a progress of {progress} was taken as {percent}"]
        if receipt.end is not None:
            result["handed_over"] = receipt.end.handed_over
        return result

    async def report_agent_finding(
        self,
        finding_type: params.FindingType,
        severity: params.Severity,
        message: params.Found,
        data: params.Data = None,
        task_id: params.OwnTask = "",
        agent_id: params.OwnId = "",
    ) -> schemas.ReportFindingResult:
        """Record a finding of an agent, for its siblings and its deployer."""
        agent = await self._agent(task_id, agent_id)
        receipt = await self._orch.report_finding(
            agent.id,
            message,
            finding_type=finding_type,
            severity=severity_named(severity),
            data=data,
        )
        _raise_if_not_recorded(receipt)
        return {
            "success": True,
            "own_finding": cast("schemas.AgentFinding", receipt.line),
            "coordination_info": await views.coordination(self._orch, agent.task_id),
        }

    async def _agent(self, task_id: str, agent_id: str) -> Agent:
        """Return the agent of a report; empty ids mean the agent that this process is inside."""
        agent_id = agent_id or os.environ.get(ENV_AGENT, "")
        if not agent_id:
            raise InvalidInput(
                "the report names no agent, and this server does not run inside one",
                hint="give your task_id and your agent_id",
            )
        try:
            if task_id:
                return await views.agent_of_task(self._orch, task_id, agent_id)
            return await self._orch.agent(agent_id)
        except NotFound as error:
            if self._orch.chosen_by in _NAMED:
                raise
            raise NotFound(
                f"{error}; this server was started without a root and uses another one, perhaps",
                hint=f"its owner sets {ENV_ROOT} in the server's environment, or --root",
            ) from error


def _per_cent(progress: float | None) -> int | None:
    """Return a progress as a whole number from 0 to 100."""
    if progress is None or math.isnan(progress):
        return None
    return round(min(100, max(0, progress)))


def _raise_if_not_recorded(receipt: ReportReceipt) -> None:
    if not receipt.recorded:
        ended = "" if receipt.end is None else f", as {receipt.end.status}: {receipt.end.reason}"
        raise InvalidInput(
            f"agent {receipt.agent_id!r} has ended{ended}; nothing was recorded",
            hint="only the first end counts; report for an active agent",
        )
