"""
The records of legacy agents, and which parts of them can be trusted.

Several releases and several concurrent writers wrote these records, so any field may be
missing or of any type. A record is also a text that other programs may write: a path in it
is used only if it lies within the task's own directory and is named after the agent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.outcome import EndReport
from orchestrator_core.model.status import is_active
from orchestrator_core.system import paths
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.names import check_id, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.layout import Layout
    from orchestrator_core.model.records import Agent

ENDED_BY = "old system"

#: Every record of this library has had these from the first release on; no legacy one has.
_OWN_FIELDS = ("key", "deadline_at")


def is_legacy(record: Mapping[str, Any]) -> bool:
    """Return whether the legacy system wrote *record*."""
    return not any(name in record for name in _OWN_FIELDS)


def was_ended_by_us(record: Mapping[str, Any]) -> bool:
    """Return whether this library ended the agent, so that nothing of it is left."""
    result = record.get("auto_cleanup_result")
    return isinstance(result, dict) and "by" in result and bool(result.get("success"))


class LegacyFiles(NamedTuple):
    """The paths of a legacy agent's files, which may be missing."""

    prompt: Path
    log: Path
    deploy_log: Path
    progress: Path
    findings: Path

    @property
    def present(self) -> tuple[Path, ...]:
        """The files that exist."""
        return tuple(path for path in self if os.path.lexists(path))


@attrs.frozen(kw_only=True)
class LegacyAgent:
    """A legacy agent, by its record."""

    id: str
    task_id: str
    parent: str
    status: str
    session: str  #: The recorded name of its session.
    started_at: float | None  #: Seconds since 1970; None if the record has no valid time.
    places: tuple[Path, ...]  #: The directories in which it may have been started.
    files: LegacyFiles
    logs: tuple[Path, ...]  #: Where its log may be: it may be archived while it is written.
    record: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def is_active(self) -> bool:
        """Whether its record shows it as alive."""
        return is_active(self.record.get("status"))


def legacy_agent(
    context: RootContext, document: Mapping[str, Any], task_id: str, record: Mapping[str, Any]
) -> LegacyAgent | None:
    """
    Return the agent of *record*, which is in *document*.

    None means that its id or its session's name is unsafe: the name could stand for another
    file or session.
    """
    agent_id = record.get("id")
    session = record.get("tmux_session") or f"agent_{agent_id}"
    try:
        check_id("agent", agent_id)
        check_name(str(session))
    except InvalidId:
        return None
    recorded = record.get("tracked_files")
    paths = recorded if isinstance(recorded, dict) else {}
    files = _files_of(context.layout, task_id, str(agent_id), paths)
    return LegacyAgent(
        id=str(agent_id),
        task_id=task_id,
        parent=str(record.get("parent") or ORCHESTRATOR),
        status=str(record.get("status") or "running"),
        session=str(session),
        started_at=parse_timestamp(record.get("started_at")),
        places=_starting_places(context.layout, document),
        files=files,
        logs=(files.log, context.layout.archive(task_id) / files.log.name),
        record=record,
    )


def _starting_places(layout: Layout, document: Mapping[str, Any]) -> tuple[Path, ...]:
    """
    Return the project's directory and the client's, but never the root directory.

    The document's ``workspace`` field is ignored: a copy of the document has the same.
    """
    client = document.get("client_cwd")
    places = [layout.root.parent, *([Path(client)] if isinstance(client, str) else [])]
    return tuple(path for path in places if path.is_absolute() and path != Path("/"))


# --- files ------------------------------------------------------------------------------------


def _files_of(
    layout: Layout, task_id: str, agent_id: str, recorded: Mapping[str, Any]
) -> LegacyFiles:
    task = layout.task(task_id)

    def find(path_of: Callable[[str, str], Path], name: str) -> Path:
        usual = path_of(task_id, agent_id)
        if os.path.lexists(usual):
            return usual
        return _validated_path(recorded.get(name), task, agent_id) or usual

    return LegacyFiles(
        find(layout.prompt, "prompt_file"),
        find(layout.log, "log_file"),
        find(layout.deploy_log, "deploy_log"),
        find(layout.progress, "progress_file"),
        find(layout.findings, "findings_file"),
    )


def _validated_path(recorded: object, task: Path, agent_id: str) -> Path | None:
    """Return a recorded path if it is the agent's, within its task, and not archived."""
    if not isinstance(recorded, str) or "\0" in recorded:
        return None
    path = task / recorded  # A relative path was relative to the task.
    if not re.search(rf"(?:^|_){re.escape(agent_id)}(?:[._]|$)", path.name):
        return None
    try:
        parent, task = paths.resolve(path.parent), paths.resolve(task)
    except OSError:
        return None
    is_inside = parent.is_relative_to(task) and not parent.is_relative_to(task / "archive")
    return parent / path.name if is_inside else None


# --- ends -------------------------------------------------------------------------------------


def report_of(agent: Agent | LegacyAgent) -> EndReport:
    """Return how an agent ended, as far as the legacy system recorded it."""
    result = agent.record.get("auto_cleanup_result")
    cleanup: Mapping[str, Any] = result if isinstance(result, dict) else {}
    archived = cleanup.get("archived_files")
    return EndReport(
        agent_id=agent.id,
        status=agent.status,
        reason=str(agent.record.get("termination_reason") or "recorded by the old system"),
        by=str(cleanup.get("by") or ENDED_BY),
        success=True,
        tmux_session_killed=cleanup.get("tmux_session_killed") is True,
        prompt_file_deleted=cleanup.get("prompt_file_deleted") is True,
        log_files_archived=bool(cleanup.get("log_files_archived")),
        # The legacy system recorded this without looking, even of processes that lived on.
        verified_no_zombies=False,
        archived_files=tuple(map(str, archived)) if isinstance(archived, list) else (),
    )
