"""What is known of a task and its agents, in the shapes that the tools return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment import report_reader as reported
from orchestrator_core.exceptions import NotFound
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.layout import Layout
from orchestrator_core.model.limits import Limits
from orchestrator_core.model.records import Agent
from orchestrator_core.model.status import is_active
from orchestrator_core.registry import task_registry
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator_core.deployment.report_reader import ReportedProgress
    from orchestrator_core.mcp import schemas
    from orchestrator_core.orchestrator import Orchestrator

_FEW = 3  #: Findings that every report's answer shows.
_SOME = 10  #: Updates and findings that a task's status shows.


def document_of(orch: Orchestrator, task_id: str) -> dict[str, Any]:
    """
    Return a task's registry.

    Raises:
        NotFound: There is no such task.
    """
    found = _peek(orch, task_id)
    if found is None:  # Not there, or damaged: the front door says which, and mends it.
        orch.task(task_id)
        found = task_registry(Layout(orch.root), task_id).read()
    return found


def agent_of(orch: Orchestrator, task_id: str, agent_id: str) -> Agent:
    """
    Return an agent of a task.

    Raises:
        NotFound: There is no such agent, or it is another task's.
    """
    return agent_and_document(orch, task_id, agent_id)[0]


def agent_and_document(
    orch: Orchestrator, task_id: str, agent_id: str
) -> tuple[Agent, dict[str, Any]]:
    """As :func:`agent_of`; with it comes its task's registry, from the same reading."""
    document = _peek(orch, task_id)
    record = None if document is None else find_agent(document, agent_id)
    # A copy of a task's directory has its agents, too, and is not their task.
    if document is not None and record and document.get("task_id", task_id) == task_id:
        return Agent.from_record(task_id, record), document
    agent = orch.agent(agent_id)
    if agent.task_id != task_id:
        raise NotFound(
            f"task {task_id!r} has no agent {agent_id!r}", hint=f"it is of {agent.task_id!r}"
        )
    return agent, document_of(orch, task_id)


def _peek(orch: Orchestrator, task_id: str) -> dict[str, Any] | None:
    return task_registry(Layout(orch.root), task_id).read_or_none() if is_id(task_id) else None


def coordination(
    orch: Orchestrator, task_id: str, document: Mapping[str, Any]
) -> schemas.CoordinationInfo:
    """Return what others of a task are doing, in short; *document* is its registry."""
    return {
        "agent_counts": counts(document.get("agents", ())),
        "recent_findings": _findings(orch, task_id, _FEW),
    }


def counts(records: Iterable[Mapping[str, Any]]) -> schemas.AgentCounts:
    """Count agents: all, those alive, and those that have ended, however."""
    alive = [is_active(record.get("status")) for record in records]
    return {
        "total_spawned": len(alive),
        "active": sum(alive),
        "completed": len(alive) - sum(alive),
    }


def status(orch: Orchestrator, task_id: str) -> schemas.TaskStatusResult:
    """Return all about a task."""
    task, document = orch.task(task_id), document_of(orch, task_id)
    agents = orch.agents(task_id=task_id)
    progress = [agent.progress for agent in agents]
    usual = Limits()
    return {
        "success": True,
        "task_id": task.id,
        "description": task.description,
        "status": str(task.status),
        "priority": str(task.priority),
        "workspace": task.workspace,
        "agents": {
            **counts(agent.record for agent in agents),
            "agents_list": [info(agent) for agent in agents],
        },
        "hierarchy": _hierarchy(agents),
        "enhanced_progress": {
            "recent_updates": [*map(_update, orch.read_progress(task_id=task_id, last=_SOME))],
            "recent_findings": _findings(orch, task_id, _SOME),
            "average_progress": round(sum(progress) / len(progress), 1) if progress else 0.0,
        },
        "limits": {
            "max_agents": document.get("max_agents", usual.max_agents),
            "max_depth": document.get("max_depth", usual.max_depth),
            "max_concurrent": document.get("max_concurrent", usual.max_concurrent),
        },
    }


def info(agent: Agent) -> schemas.AgentInfo:
    """Return one agent, in short."""
    return {
        "id": agent.id,
        "type": agent.type,
        "task_id": agent.task_id,
        "status": agent.status,
        "parent": agent.parent,
        "depth": agent.depth,
        "progress": agent.progress,
        "message": agent.message,
        "started_at": agent.started_at,
        "last_update": agent.last_update,
        "completed_at": agent.completed_at,
        "end_reason": agent.end_reason,
        "tmux_session": agent.tmux_session,
    }


def _hierarchy(agents: Iterable[Agent]) -> dict[str, list[str]]:
    below: dict[str, list[str]] = {ORCHESTRATOR: []}
    for agent in agents:
        below.setdefault(agent.parent, []).append(agent.id)
    return below


# --- what agents have reported ----------------------------------------------------------------


def _findings(orch: Orchestrator, task_id: str, count: int) -> list[schemas.AgentFinding]:
    """Return the last findings of a task's agents, oldest first."""
    found = reported.read_findings(Layout(orch.root), task_id, None, last=count)
    return [finding(one.to_dict()) for one in found]


def finding(line: Mapping[str, Any]) -> schemas.AgentFinding:
    """Return one finding, as it was written down."""
    return {
        "timestamp": str(line.get("timestamp", "")),
        "agent_id": str(line.get("agent_id", "")),
        "finding_type": str(line.get("finding_type", "")),
        "severity": str(line.get("severity", "")),
        "message": str(line.get("message", "")),
        "data": line.get("data"),
    }


def _update(one: ReportedProgress) -> schemas.ProgressUpdate:
    return {
        "timestamp": one.timestamp,
        "agent_id": one.agent_id,
        "status": one.status,
        "progress": one.progress or 0,
        "message": one.message,
    }
