"""An agent's life as a list of events: from its record, its journal and its reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import JournalDamaged, NotFound
from orchestrator_core.system.clock import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.aio import AsyncOrchestrator
    from orchestrator_core.mcp import schemas
    from orchestrator_core.model.records import Agent, ReportedFinding, ReportedProgress

_CLEANUP_FIELDS = ("tmux_session_killed", "prompt_file_deleted", "verified_no_zombies", "method")


async def timeline(orch: AsyncOrchestrator, agent: Agent) -> schemas.TimelineResult:
    """Return an agent's events, oldest first."""
    events = [
        await _deployment(orch, agent),
        *map(_progress, await orch.read_progress(agent.id)),
        *map(_finding, await orch.read_findings(agent.id)),
        *_end(agent),
    ]
    return {
        "success": True,
        "agent_id": agent.id,
        "task_id": agent.task_id,
        "status": agent.status,
        "events": sorted(events, key=lambda event: parse_timestamp(event["timestamp"]) or 0.0),
    }


async def _deployment(orch: AsyncOrchestrator, agent: Agent) -> schemas.TimelineEvent:
    message = f"by {agent.parent}"
    try:
        history = await orch.history(agent.id)
    except (NotFound, JournalDamaged):  # A legacy agent, or its journal has been collected.
        return _event(agent.started_at, "deployed", message)
    steps = [frame.name for frame in history.stack if frame.done]
    return _event(history.begun_at, "deployed", message, steps=steps)


def _progress(report: ReportedProgress) -> schemas.TimelineEvent:
    values = {"status": report.status, "progress": report.progress}
    return _event(report.timestamp, "progress", report.message, **values)


def _finding(report: ReportedFinding) -> schemas.TimelineEvent:
    values = {"finding_type": report.finding_type, "severity": report.severity, "data": report.data}
    return _event(report.timestamp, "finding", report.message, **values)


def _end(agent: Agent) -> Iterator[schemas.TimelineEvent]:
    if agent.completed_at:
        exit_values = {"exit_code": agent.exit_code, "exit_signal": agent.exit_signal}
        yield _event(
            agent.completed_at, "ended", agent.end_reason, status=agent.status, **exit_values
        )
    cleanup = agent.record.get("auto_cleanup_result")
    at = agent.record.get("auto_cleanup_timestamp")
    if isinstance(cleanup, dict) and at:
        error = agent.record.get("auto_cleanup_error")
        message = "nothing is left" if cleanup.get("success") else f"not all of it: {error}"
        values = {name: cleanup.get(name) for name in _CLEANUP_FIELDS}
        yield _event(at, "given back", message, **values)


def _event(at: object, event: str, message: str, **data: Any) -> schemas.TimelineEvent:  # noqa: ANN401 - JSON
    return {"timestamp": str(at or ""), "event": event, "message": message, "data": data}
