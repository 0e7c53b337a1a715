"""
Reconstruct the records of legacy agents whose task's registry was truncated.

The legacy system wrote its registries in place. If it was killed meanwhile, its agents
went on without a record. Their entries in the global registry and their files remain. An
agent that has a journal is left out: :mod:`~orchestrator_core.reconcile.evidence` knows it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.receipt_plan import unknown_record
from orchestrator_core.deployment.report_reader import json_lines
from orchestrator_core.reconcile.sweep.named_files import LOG, PROMPT_FILE, scan_task
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.registry import Document

_EXCERPT_LENGTH = 200


def reconstruct_from_files(context: RootContext, task_id: str, known: Container[str]) -> Document:
    """Return a document of a task's agents that are not *known*, from entries and files."""
    entries = (context.global_registry.read_or_none() or {}).get("agents", {})
    listed = {name: entry for name, entry in entries.items() if entry.get("task_id") == task_id}
    files = scan_task(context.layout, task_id)
    named = sorted(file.agent_id for file in files if file.what in (PROMPT_FILE, LOG))
    records = [
        _record(context, task_id, agent_id, listed.get(agent_id, {}))
        for agent_id in dict.fromkeys((*listed, *named))
        if agent_id not in known and is_id(agent_id)
    ]
    return {"agents": sorted(records, key=lambda record: str(record.get("started_at")))}


def _record(
    context: RootContext, task_id: str, agent_id: str, entry: dict[str, Any]
) -> dict[str, Any]:
    return {
        **unknown_record(agent_id),
        "depth": 1,
        **_from_prompt(context.layout.prompt(task_id, agent_id)),
        **{name: value for name, value in entry.items() if name != "task_id"},
        **_last_progress(context.layout.progress(task_id, agent_id)),
    }


def _from_prompt(prompt: Path) -> dict[str, Any]:
    """Return the prompt, and the agent's start: the prompt's file was written then."""
    try:
        text, at = prompt.read_text(errors="replace"), prompt.stat().st_mtime
    except OSError:
        return {}
    started_at = datetime.fromtimestamp(at).astimezone().isoformat()
    return {"started_at": started_at, "prompt": text[:_EXCERPT_LENGTH]}


def _last_progress(path: Path) -> dict[str, Any]:
    lines = [*json_lines(path)]
    if not lines:
        return {}
    names = ("status", "progress", "message")
    fields = {name: lines[-1][name] for name in names if name in lines[-1]}
    return {**fields, "last_update": lines[-1].get("timestamp")}
