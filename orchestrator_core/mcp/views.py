"""Agents, tasks and reports as the tools return them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import anyio.to_thread

from orchestrator_core.exceptions import NotFound, OrchestratorError
from orchestrator_core.mcp import schemas
from orchestrator_core.mcp.output_slice import OutputQuery, OutputSlice, count_lines, slice_output
from orchestrator_core.mcp.schemas import (
    AgentCounts,
    AgentFinding,
    AgentOutputResult,
    TaskLimits,
    TaskStatusResult,
    select,
)
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.aio import AsyncOrchestrator
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent, ReportedFinding, ReportedProgress
    from orchestrator_core.orchestrator import Orchestrator
    from orchestrator_core.presets.result import AgentResult

_COORDINATION_FINDINGS = 3  #: In the answer to each report.
_STATUS_REPORTS = 10  #: Of either kind, in a task's status.
_CUT = 500  #: Characters of a result in a task's status; get_agent_result has all of it.


async def agent_of_task(orch: AsyncOrchestrator, task_id: str, agent_id: str) -> Agent:
    """
    Return an agent of a task.

    Raises:
        NotFound: There is no such agent, or it belongs to another task.
    """
    agent = await orch.agent(agent_id)
    if agent.task_id != task_id:
        raise NotFound(
            f"task {task_id!r} has no agent {agent_id!r}",
            hint=f"use its own task: it is of {agent.task_id!r}",
        )
    return agent


async def coordination(orch: AsyncOrchestrator, task_id: str) -> schemas.CoordinationInfo:
    """Return a short summary of a task's other agents."""
    found = await orch.read_findings(task_id=task_id, last=_COORDINATION_FINDINGS)
    return {
        "task_id": task_id,
        "agent_counts": count_agents(await orch.agents(task_id=task_id)),
        "recent_findings": _newest_first(found, _COORDINATION_FINDINGS),
    }


def count_agents(agents: Sequence[Agent]) -> AgentCounts:
    """Count agents: all, the active ones, and the ended ones."""
    active = sum(agent.is_active for agent in agents)
    return {"total_spawned": len(agents), "active": active, "completed": len(agents) - active}


async def task_status(orch: AsyncOrchestrator, task_id: str) -> TaskStatusResult:
    """Return a task with its agents, their hierarchy and their last reports."""
    task = await orch.task(task_id)
    agents = await orch.agents(task_id=task_id)
    updates = await orch.read_progress(task_id=task_id)
    found = await orch.read_findings(task_id=task_id)
    ended = [agent for agent in agents if not agent.is_active]
    results = await anyio.to_thread.run_sync(_summaries, orch.sync, ended)
    progress = [agent.progress for agent in agents]
    return select(
        task,
        TaskStatusResult,
        success=True,
        task_id=task.id,
        status=str(task.status),
        priority=str(task.priority),
        agents={
            **count_agents(agents),
            "agents_list": [
                select(agent, schemas.AgentInfoWithResult, **results.get(agent.id, {}))
                for agent in agents
            ],
        },
        hierarchy=_hierarchy(agents),
        enhanced_progress={
            "total_updates": len(updates),
            "total_findings": len(found),
            "recent_updates": [_update(each) for each in reversed(updates[-_STATUS_REPORTS:])],
            "recent_findings": _newest_first(found, _STATUS_REPORTS),
            "average_progress": round(sum(progress) / len(progress), 1) if progress else 0.0,
        },
        limits=select(Limits(), TaskLimits, **_numbers(task.record)),
    )


def _numbers(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the whole numbers in a record: another program may have written anything."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def _hierarchy(agents: Iterable[Agent]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {ORCHESTRATOR: []}
    for agent in agents:
        children.setdefault(agent.parent, []).append(agent.id)
    return children


def _newest_first(findings: Sequence[ReportedFinding], count: int) -> list[AgentFinding]:
    return [select(each, AgentFinding) for each in reversed(findings[-count:])]


def _update(report: ReportedProgress) -> schemas.ProgressUpdate:
    return cast("schemas.ProgressUpdate", {**report.to_dict(), "progress": report.progress or 0})


# --- results -------------------------------------------------------------------------------------


def _summaries(orch: Orchestrator, agents: Iterable[Agent]) -> dict[str, dict[str, Any]]:
    """Return the results of ended agents in short, by id. It reads files."""
    found = {}
    for agent in agents:
        with contextlib.suppress(OrchestratorError):
            result = orch.read_result(agent.id)
            if result.format is not None:
                found[agent.id] = {"result": _summary(result)}
    return found


def _summary(result: AgentResult) -> schemas.ResultSummary:
    usage = result.usage
    return {
        "is_error": result.is_error,
        "result": _cut(result.result),
        "error": _cut(result.error),
        "cost_usd": result.cost_usd,
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "permission_denials": len(result.permission_denials),
    }


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _CUT else f"{text[:_CUT]}…"


async def agent_result(orch: AsyncOrchestrator, agent: Agent) -> schemas.AgentResultResult:
    """Return the result in an agent's output, with the status of its record."""
    values = (await orch.read_result(agent.id)).to_dict()
    known = schemas.AgentResultResult.__annotations__
    return select(
        agent,
        schemas.AgentResultResult,
        success=True,
        agent_id=agent.id,
        **{name: value for name, value in values.items() if name in known},
    )


def cleanup(end: EndReport) -> schemas.CleanupSummary:
    """Return the result of an agent's cleanup."""
    details = [step.get("detail") or {} for step in end.steps]
    forced = any(detail.get("forced") for detail in details)
    return select(end, schemas.CleanupSummary, escalated_to_sigkill=forced)


# --- output --------------------------------------------------------------------------------------


def agent_output(
    orch: Orchestrator, agent: Agent, query: OutputQuery, *, with_metadata: bool
) -> schemas.AgentOutputResult:
    """Return a part of an agent's output. It reads files, and belongs in a thread."""
    part = slice_output(orch, agent.id, query)
    result = select(
        part,
        AgentOutputResult,
        success=True,
        agent_id=agent.id,
        session_status="running" if agent.is_active else "terminated",
        source=_source(agent, part.size),
        tmux_session=agent.tmux_session,
        metadata=None,
    )
    if with_metadata:
        result["metadata"] = _metadata(orch, agent, part)
    else:
        del result["metadata"]
    return result


def _source(agent: Agent, size: int) -> str:
    if agent.is_active:
        return "jsonl_log"
    return "archived_log" if size else "none"


def _metadata(orch: Orchestrator, agent: Agent, part: OutputSlice) -> schemas.OutputMetadata:
    with orch.open_output(agent.id) as log:
        total = count_lines(log)
    matching = total if part.matching_lines is None else part.matching_lines
    tracked = agent.record.get("tracked_files")
    metadata: schemas.OutputMetadata = {
        "total_lines": total,
        "total_bytes": part.size,
        "matching_lines": matching,
        "returned_lines": part.returned_lines,
        "truncated": part.returned_lines < matching,
        "log_source": _source(agent, part.size),
        "file_size_bytes": part.size,
        "file_path": str(tracked.get("log_file", "")) if isinstance(tracked, dict) else "",
    }
    times = [time for each in part.ends if (time := _timestamp(each))]
    if times:
        metadata |= {"first_timestamp": times[0], "last_timestamp": times[-1]}
    return metadata


def _timestamp(value: Any) -> str:  # noqa: ANN401 - JSON
    return str(value.get("timestamp") or "") if isinstance(value, dict) else ""
