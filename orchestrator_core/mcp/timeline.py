"""An agent's life as a list of moments: from its record, its journal and its reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import JournalDamaged, NotFound
from orchestrator_core.system.clock import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.mcp import schemas
    from orchestrator_core.model.records import Agent
    from orchestrator_core.orchestrator import Orchestrator


def timeline(orch: Orchestrator, agent: Agent) -> schemas.TimelineResult:
    """Return an agent's life, in the order in which it went."""
    events = [*_beginning(orch, agent), *_reports(orch, agent), *_end(agent)]
    return {
        "success": True,
        "agent_id": agent.id,
        "task_id": agent.task_id,
        "status": agent.status,
        "events": sorted(events, key=lambda event: parse_timestamp(event["timestamp"]) or 0.0),
    }


def _beginning(orch: Orchestrator, agent: Agent) -> Iterator[schemas.TimelineEvent]:
    try:
        history = orch.history(agent.id)
    except (NotFound, JournalDamaged):  # The old system's, or kept for long enough.
        yield _event(agent.started_at, "deployed", f"by {agent.parent}")
        return
    steps = [frame.name for frame in history.stack if frame.done]
    yield _event(history.begun_at, "deployed", f"by {agent.parent}", steps=steps)


def _reports(orch: Orchestrator, agent: Agent) -> Iterator[schemas.TimelineEvent]:
    for update in orch.read_progress(agent.id):
        said = {"status": update.status, "progress": update.progress}
        yield _event(update.timestamp, "progress", update.message, **said)
    for found in orch.read_findings(agent.id):
        what = {"finding_type": found.finding_type, "severity": found.severity}
        yield _event(found.timestamp, "finding", found.message, **what, data=found.data)


def _end(agent: Agent) -> Iterator[schemas.TimelineEvent]:
    if agent.completed_at:
        exit_of = {"exit_code": agent.exit_code, "exit_signal": agent.exit_signal}
        yield _event(agent.completed_at, "ended", agent.end_reason, status=agent.status, **exit_of)
    record = agent.record
    cleanup = record.get("auto_cleanup_result")
    if isinstance(cleanup, dict) and record.get("auto_cleanup_timestamp"):
        wrong = record.get("auto_cleanup_error")
        said = "nothing is left" if cleanup.get("success") else f"not all of it: {wrong}"
        names = ("tmux_session_killed", "prompt_file_deleted", "verified_no_zombies", "method")
        told = {name: cleanup.get(name) for name in names}
        yield _event(record["auto_cleanup_timestamp"], "given back", said, **told)


def _event(at: object, event: str, message: str, **data: Any) -> schemas.TimelineEvent:  # noqa: ANN401 - JSON
    return {"timestamp": str(at or ""), "event": event, "message": message, "data": data}
