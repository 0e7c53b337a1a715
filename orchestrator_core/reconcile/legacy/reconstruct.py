"""
What else tells of a task's old agents, when its registry was cut off or emptied.

The old system wrote its registries in place: killed meanwhile, it left them with
nothing in them, and its agents at work. They are listed globally, and they have
files. An agent that has a journal needs none of this, and is left out.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator_core.model import ids
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document

_FILES = (
    ("", re.compile(r"agent_prompt_(.+)\.txt")),
    ("logs", re.compile(r"(.+)_stream\.jsonl")),
)
_EXCERPT = 200


def reconstruct_from_files(context: RootContext, task_id: str, known: Container[str]) -> Document:
    """Return a document of the agents that are not *known*, as far as anything tells of them."""
    entries = (context.global_registry.read_or_none() or {}).get("agents", {})
    listed = {name: entry for name, entry in entries.items() if entry.get("task_id") == task_id}
    names = dict.fromkeys((*listed, *_named(context.layout.task(task_id))))
    records = [
        _record(context, task_id, name, listed.get(name, {}))
        for name in names
        if name not in known and is_id(name)
    ]
    return {"agents": sorted(records, key=lambda record: str(record.get("started_at")))}


def _named(task: Path) -> Iterator[str]:
    for directory, pattern in _FILES:
        place = task / directory
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if found := pattern.fullmatch(path.name):
                yield found[1]


def _record(
    context: RootContext, task_id: str, agent_id: str, entry: dict[str, Any]
) -> dict[str, Any]:
    prompt = context.layout.prompt(task_id, agent_id)
    told = {name: value for name, value in entry.items() if name != "task_id"}
    return {
        "id": agent_id,
        "type": agent_id.rsplit("-", 2)[0],
        "tmux_session": ids.session_name(agent_id),
        "parent": ORCHESTRATOR,
        "depth": 1,
        "status": Status.RUNNING.value,
        **_written(prompt),
        **told,
        **_last_said(context.layout.progress(task_id, agent_id)),
    }


def _written(prompt: Path) -> dict[str, Any]:
    """Return what the prompt's file tells: it was written when its agent was started."""
    try:
        text, at = prompt.read_text(errors="replace"), prompt.stat().st_mtime
    except OSError:
        return {}
    started_at = datetime.fromtimestamp(at).astimezone().isoformat()
    return {"started_at": started_at, "prompt": text[:_EXCERPT]}


def _last_said(progress: Path) -> dict[str, Any]:
    """Return what an agent last said of itself."""
    try:
        lines = progress.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            kept = {name: said[name] for name in ("status", "progress", "message") if name in said}
            return {**kept, "last_update": said.get("timestamp")}
    return {}
