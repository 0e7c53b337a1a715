"""
What is known of a task and its agents, in the shapes that the tools return.

Read from files, without a lock. What an agent has reported is in its own file while it
lives, and in its task's archive after that.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from orchestrator_core.agents import ORCHESTRATOR, Limits, is_active
from orchestrator_core.exceptions import StorageError
from orchestrator_core.kept import GZ, read_kept
from orchestrator_core.places import Places
from orchestrator_core.registry import task_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator_core.agents import Agent
    from orchestrator_core.mcp import shapes
    from orchestrator_core.orchestrator import Orchestrator

T = TypeVar("T")

_FEW = 3  #: Findings that every report's answer shows.
_SOME = 10  #: Updates and findings that a task's status shows.


def document_of(orch: Orchestrator, task_id: str) -> dict[str, Any]:
    """
    Return a task's registry.

    Raises:
        NotFound: There is no such task.
    """
    found = task_registry(Places(orch.root), task_id).peek()
    if found is None:  # Not there, or damaged: the front door says which, and mends it.
        orch.task(task_id)
        found = task_registry(Places(orch.root), task_id).read()
    return found


def coordination(orch: Orchestrator, task_id: str) -> shapes.CoordinationInfo:
    """Return what others of a task are doing, in short."""
    document = document_of(orch, task_id)
    return {
        "agent_counts": counts(document.get("agents", ())),
        "recent_findings": recent_findings(orch.root, task_id, _FEW),
    }


def counts(records: Iterable[Mapping[str, Any]]) -> shapes.AgentCounts:
    """Count agents: all, those alive, and those that have ended, however."""
    alive = [is_active(record.get("status")) for record in records]
    return {
        "total_spawned": len(alive),
        "active": sum(alive),
        "completed": len(alive) - sum(alive),
    }


def status(orch: Orchestrator, task_id: str) -> shapes.TaskStatus:
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
            "recent_updates": _recent(orch.root, task_id, "progress", _SOME, _update),
            "recent_findings": recent_findings(orch.root, task_id, _SOME),
            "average_progress": round(sum(progress) / len(progress), 1) if progress else 0.0,
        },
        "limits": {
            "max_agents": document.get("max_agents", usual.max_agents),
            "max_depth": document.get("max_depth", usual.max_depth),
            "max_concurrent": document.get("max_concurrent", usual.max_concurrent),
        },
    }


def info(agent: Agent) -> shapes.AgentInfo:
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


def recent_findings(root: Path, task_id: str, count: int) -> list[shapes.Finding]:
    """Return the last findings of a task's agents, oldest first."""
    return _recent(root, task_id, "findings", count, finding)


def finding(line: Mapping[str, Any]) -> shapes.Finding:
    """Return one line of a file of findings."""
    return {
        "timestamp": str(line.get("timestamp", "")),
        "agent_id": str(line.get("agent_id", "")),
        "finding_type": str(line.get("finding_type", "")),
        "severity": str(line.get("severity", "")),
        "message": str(line.get("message", "")),
        "data": line.get("data"),
    }


def _update(line: Mapping[str, Any]) -> shapes.Update:
    progress = line.get("progress")
    return {
        "timestamp": str(line.get("timestamp", "")),
        "agent_id": str(line.get("agent_id", "")),
        "status": str(line.get("status", "")),
        "progress": progress if isinstance(progress, int) else 0,
        "message": str(line.get("message", "")),
    }


def _recent(
    root: Path, task_id: str, kind: str, count: int, made: Callable[[Mapping[str, Any]], T]
) -> list[T]:
    # The last lines of all are in the files that were last written to: as many, at most.
    files = sorted(_files(root, task_id, kind), key=lambda found: found.stat().st_mtime_ns)
    lines = (line for found in files[-count:] for line in _lines(found)[-count:])
    return [made(line) for line in sorted(lines, key=moment)[-count:]]


def reported(root: Path, agent: Agent, kind: str) -> list[dict[str, Any]]:
    """Return all that an agent has reported: its ``progress``, or its ``findings``."""
    mine = f"{agent.id}_{kind}."
    files = [found for found in _files(root, agent.task_id, kind) if found.name.startswith(mine)]
    return sorted((line for found in files for line in _lines(found)), key=moment)


def _files(root: Path, task_id: str, kind: str) -> Iterator[os.DirEntry[str]]:
    task = Places(root).task(task_id)
    for directory in (task / kind, task / "archive"):
        try:
            with os.scandir(directory) as entries:
                # A second one of a name is archived as …_progress.1.jsonl.
                yield from (entry for entry in entries if f"_{kind}." in entry.name)
        except FileNotFoundError:
            continue


def _lines(found: os.DirEntry[str]) -> list[dict[str, Any]]:
    try:
        data = read_kept(Path(found.path.removesuffix(GZ)))
    except (FileNotFoundError, StorageError):
        return []  # Archived, or removed, between our looks; or not ours to read.
    lines = []
    for line in data.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError):
            continue  # Torn.
        if isinstance(value, dict):
            lines.append(value)
    return lines


def moment(line: Mapping[str, Any]) -> float:
    """Return when a line was written, in seconds since 1970; old ones say it in local time."""
    try:
        return dt.datetime.fromisoformat(str(line.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0
