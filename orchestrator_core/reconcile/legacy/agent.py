"""
What the old system's records say, and what of it can be believed.

They were written by several releases and several writers at once, so nothing in
them is sure to be there, or to be of any kind. And a record is a text that other
programs write: a path in it is used only if it lies within the task's own
directory and is named after the agent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.outcome import EndReport
from orchestrator_core.model.status import is_active
from orchestrator_core.system import paths
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.names import check_id
from orchestrator_core.system.terminal import check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.layout import Layout
    from orchestrator_core.model.records import Agent

BY = "old system"  #: Who has ended an agent that was found ended.

#: What every record of ours has from its first day, and none of the old system's.
_OURS = ("key", "deadline_at")


def is_legacy(record: Mapping[str, Any]) -> bool:
    """Tell whether the old system wrote this record."""
    return not any(name in record for name in _OURS)


def was_ended_by_us(record: Mapping[str, Any]) -> bool:
    """Tell whether it was ended here, so that nothing of it is left."""
    result = record.get("auto_cleanup_result")
    return isinstance(result, dict) and "by" in result and bool(result.get("success"))


@attrs.frozen(kw_only=True)
class Files:
    """An old agent's files, where they are or would be."""

    prompt: Path
    log: Path
    deploy_log: Path
    progress: Path
    findings: Path
    archive: Path  #: Where they are kept when it has ended.

    @property
    def present(self) -> tuple[Path, ...]:
        """Those that are there."""
        every = (self.prompt, self.log, self.deploy_log, self.progress, self.findings)
        return tuple(path for path in every if os.path.lexists(path))


@attrs.frozen(kw_only=True)
class LegacyAgent:
    """One of the old system's agents, as its record tells."""

    id: str
    task_id: str
    parent: str
    status: str
    session: str  #: The name that was recorded for its session.
    started_at: float | None  #: Seconds since 1970; None if the record does not tell.
    places: tuple[Path, ...]  #: Where it may have been started: its project, and its client's.
    files: Files
    record: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def is_active(self) -> bool:
        """Whether its record says that it lives."""
        return is_active(self.record.get("status"))

    @property
    def logs(self) -> tuple[Path, ...]:
        """Where its log may be: in its place, or archived while it was written."""
        return self.files.log, self.files.archive / self.files.log.name


def legacy_agents(
    context: RootContext, document: Mapping[str, Any], task_id: str
) -> Iterator[LegacyAgent]:
    """
    Return the old agents of a task's registry.

    Those whose id or session could mean something else than itself are left
    out: no file and no session can be asked for under such a name.
    """
    records = [record for record in document.get("agents", ()) if is_legacy(record)]
    for record in records:
        found = legacy_agent(context, document, task_id, record)
        if found is not None:
            yield found


def legacy_agent(
    context: RootContext, document: Mapping[str, Any], task_id: str, record: Mapping[str, Any]
) -> LegacyAgent | None:
    """Return one, or None if its names cannot be used."""
    agent_id = record.get("id")
    session = record.get("tmux_session") or f"agent_{agent_id}"
    try:
        check_id("agent", agent_id)
        check_name(str(session))
    except InvalidId:
        return None
    recorded = record.get("tracked_files")
    return LegacyAgent(
        id=str(agent_id),
        task_id=task_id,
        parent=str(record.get("parent") or ORCHESTRATOR),
        status=str(record.get("status") or "running"),
        session=str(session),
        started_at=parse_timestamp(record.get("started_at")),
        places=_starting_places(context.layout, document),
        files=_files_of(
            context.layout, task_id, str(agent_id), recorded if isinstance(recorded, dict) else {}
        ),
        record=record,
    )


def _starting_places(layout: Layout, document: Mapping[str, Any]) -> tuple[Path, ...]:
    """
    Return where an agent may have been started, none of them so wide that all is in it.

    The document's own word for the workspace is not asked: a copy of it says the same.
    """
    client = document.get("client_cwd")
    told = [layout.root.parent, *([Path(client)] if isinstance(client, str) else [])]
    return tuple(path for path in told if path.is_absolute() and path != Path("/"))


# --- files ------------------------------------------------------------------------------------


def _files_of(layout: Layout, task_id: str, agent_id: str, recorded: Mapping[str, Any]) -> Files:
    own = (task_id, agent_id)
    usual = {
        "prompt_file": layout.prompt(*own),
        "log_file": layout.log(*own),
        "deploy_log": layout.deploy_log(*own),
        "progress_file": layout.progress(*own),
        "findings_file": layout.findings(*own),
    }
    task = layout.task(task_id)
    chosen = {
        name: path if os.path.lexists(path) else _vetted(recorded.get(name), task, agent_id) or path
        for name, path in usual.items()
    }
    return Files(
        prompt=chosen["prompt_file"],
        log=chosen["log_file"],
        deploy_log=chosen["deploy_log"],
        progress=chosen["progress_file"],
        findings=chosen["findings_file"],
        archive=layout.archive(task_id),
    )


def _vetted(recorded: object, task: Path, agent_id: str) -> Path | None:
    """Return a recorded path if it is one of this agent's own files within its task."""
    if not isinstance(recorded, str) or "\0" in recorded:
        return None
    path = task / recorded  # A relative one was relative to the task.
    if not re.search(rf"(?:^|_){re.escape(agent_id)}(?:[._]|$)", path.name):
        return None
    try:
        inside, within = paths.resolve(path.parent), paths.resolve(task)
    except OSError:
        return None
    is_within = inside.is_relative_to(within)
    is_kept = inside.is_relative_to(within / "archive")
    return inside / path.name if is_within and not is_kept else None


# --- ends -------------------------------------------------------------------------------------


def report_of(agent: Agent | LegacyAgent) -> EndReport:
    """Return how an agent ended, as far as the old system wrote it down."""
    told = agent.record.get("auto_cleanup_result")
    cleanup: Mapping[str, Any] = told if isinstance(told, dict) else {}
    return EndReport(
        agent_id=agent.id,
        status=agent.status,
        reason=str(agent.record.get("termination_reason") or "recorded by the old system"),
        by=str(cleanup.get("by") or BY),
        success=True,
        tmux_session_killed=cleanup.get("tmux_session_killed") is True,
        prompt_file_deleted=cleanup.get("prompt_file_deleted") is True,
        log_files_archived=bool(cleanup.get("log_files_archived")),
        # It said so of processes that lived on: nobody has looked.
        verified_no_zombies=False,
        archived_files=_texts(cleanup.get("archived_files")),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
