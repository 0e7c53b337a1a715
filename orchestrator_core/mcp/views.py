"""Agents, tasks and reports as the tools return them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from orchestrator_core.exceptions import NotFound
from orchestrator_core.mcp.output_slice import OutputQuery, OutputSlice, count_lines, slice_output
from orchestrator_core.mcp.schemas import (
    AgentCounts,
    AgentFinding,
    AgentInfo,
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
    from orchestrator_core.mcp import schemas
    from orchestrator_core.model.records import Agent, ReportedProgress
    from orchestrator_core.orchestrator import Orchestrator

_COORDINATION_FINDINGS = 3  #: In the answer to each report.
_STATUS_REPORTS = 10  #: Of either kind, in a task's status.


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
    return {
        "agent_counts": count_agents(await orch.agents(task_id=task_id)),
        "recent_findings": await _findings(orch, task_id, _COORDINATION_FINDINGS),
    }


def count_agents(agents: Sequence[Agent]) -> AgentCounts:
    """Count agents: all, the active ones, and the ended ones."""
    active = sum(agent.is_active for agent in agents)
    return {"total_spawned": len(agents), "active": active, "completed": len(agents) - active}


async def task_status(orch: AsyncOrchestrator, task_id: str) -> TaskStatusResult:
    """Return a task with its agents, their hierarchy and their last reports."""
    task = await orch.task(task_id)
    agents = await orch.agents(task_id=task_id)
    updates = await orch.read_progress(task_id=task_id, last=_STATUS_REPORTS)
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
            "agents_list": [select(agent, AgentInfo) for agent in agents],
        },
        hierarchy=_hierarchy(agents),
        enhanced_progress={
            "recent_updates": [_update(each) for each in updates],
            "recent_findings": await _findings(orch, task_id, _STATUS_REPORTS),
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


async def _findings(orch: AsyncOrchestrator, task_id: str, count: int) -> list[AgentFinding]:
    """Return the last findings of a task's agents, oldest first."""
    found = await orch.read_findings(task_id=task_id, last=count)
    return [select(each, AgentFinding) for each in found]


def _update(report: ReportedProgress) -> schemas.ProgressUpdate:
    return cast("schemas.ProgressUpdate", {**report.to_dict(), "progress": report.progress or 0})


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
