"""
Reports: the progress and the findings that agents write.

A report is written under the lock of its task's registry: the line in the agent's file and
the change of its record go together. An agent whose record has ended gets neither, so no
late line creates an archived file again.

Each report is a program of its own, and most of what an agent costs its orchestrator. The
imports here are few, and no class here is one that attrs has to create.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orchestrator_core.deployment.task_lookup import task_of
from orchestrator_core.exceptions import InvalidInput, NotFound
from orchestrator_core.model import bounds
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.outcome import EndReport

SEVERITIES = ("low", "medium", "high", "critical", "info")


class ReportReceipt(NamedTuple):
    """
    The result of a report: its line as it was written, or the end that came before it.

    ``recorded`` is False if the agent had ended; ``end`` then says how. ``end`` is also set
    if the report itself ended the agent.
    """

    agent_id: str
    recorded: bool
    line: dict[str, Any]
    end: EndReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._asdict())
        return plain


def check_progress(progress: int | None) -> None:
    """Raise InvalidInput unless *progress* is None or a percentage."""
    bounds.check_count("the progress", progress)
    if progress is not None and not 0 <= progress <= 100:  # noqa: PLR2004 - per cent
        raise InvalidInput(f"a progress of {progress} is not between 0 and 100")


class Reporter:
    """The writer of what the agents of one root report."""

    def __init__(self, context: RootContext) -> None:
        self._context = context

    def write_progress(
        self, agent_id: str, status: Status, *, message: str, progress: int | None
    ) -> ReportReceipt:
        """
        Write an agent's progress, and its status unless that is a terminal one.

        A message that is too long is shortened, with a mark.
        """
        message = bounds.shortened(message)
        line = {"status": status.value, "message": message, "progress": progress}
        changes: dict[str, Any] = {"message": message}
        if progress is not None:
            changes["progress"] = progress
        if not status.is_terminal:  # The end writes a terminal status.
            changes["status"] = status.value
        return self._write(agent_id, self._context.layout.progress, line, changes)

    def write_finding(
        self,
        agent_id: str,
        message: str,
        *,
        finding_type: str,
        severity: str,
        data: dict[str, Any] | None,
    ) -> ReportReceipt:
        """Write something that an agent has found."""
        if severity not in SEVERITIES:
            raise InvalidInput(
                f"{severity!r} is no severity", hint=f"use one of: {', '.join(SEVERITIES)}"
            )
        bounds.check_text("the finding's message", message)
        bounds.check_length("the finding's type", finding_type, bounds.LABEL_MAX)
        data = replace_surrogates(data)
        bounds.check_data("the finding's data", data)
        message = bounds.shortened(message)
        line = {
            "finding_type": finding_type,
            "severity": severity,
            "message": message,
            "data": data,
        }
        return self._write(agent_id, self._context.layout.findings, line, {})

    def _write(
        self,
        agent_id: str,
        path_of: Callable[[str, str], Path],
        fields: dict[str, Any],
        changes: dict[str, Any],
    ) -> ReportReceipt:
        """Append a line to the agent's file, and apply *changes* to its record: both or none."""
        now = timestamp()
        fields, changes = replace_surrogates(fields), replace_surrogates(changes)
        line = {"timestamp": now, "agent_id": agent_id, **fields}
        task_id = task_of(self._context, agent_id)
        path = path_of(task_id, agent_id)
        try:
            encoded = msgspec.json.format(msgspec.json.encode(line), indent=0)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the report's data is not JSON: {error}") from error
        registry = self._context.task_registry(task_id)
        registry.restore()
        appended = durable.AppendedLine(path, encoded)
        with registry.transaction(on_refused=appended.withdraw) as document:
            record = find_agent(document, agent_id)
            if record is None:
                raise NotFound(f"task {task_id!r} has no agent {agent_id!r}")
            recorded = is_active(record.get("status"))
            if recorded:
                if not path.parent.is_dir():
                    durable.make_directory(path.parent)  # A legacy task may lack it.
                appended.append()
                record |= {"last_update": now, **changes}
        return ReportReceipt(agent_id=agent_id, recorded=recorded, line=line)
