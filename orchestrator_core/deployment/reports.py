"""
What agents say of themselves.

A report is written under the lock of its task's registry: the line in the
agent's file and the change of its record go together, and an agent whose record
has ended gets neither. So no late line makes a file anew that was archived.

Most of what an agent costs its orchestrator is this, since each report is a program of its
own: what a report imports is kept small, and no class here is one that attrs has to make.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orchestrator_core.exceptions import InvalidInput, NotFound
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system import durable
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.outcome import EndReport

_CACHE_SIZE = 1000  #: Of so many agents the task is kept in mind.
SEVERITIES = ("low", "medium", "high", "critical", "info")


class ReportReceipt(NamedTuple):
    """
    What became of a report: its line as it was written, or the end that came before it.

    ``recorded`` is False if the agent's life was over; ``end`` then tells how it
    ended. For a report that itself ended the agent, ``end`` tells how.
    """

    agent_id: str
    recorded: bool
    line: dict[str, Any]
    end: EndReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self._asdict())
        return plain


class Reporter:
    """Writes what the agents of one root report."""

    def __init__(self, context: RootContext, terminator: Callable[[], Terminator]) -> None:
        self._context = context
        self._terminator = terminator  #: Made when first called: most reports need no ends.
        self._tasks: dict[str, str] = {}  #: Whose task is known: an agent never changes it.

    def write_progress(
        self, agent_id: str, status: Status, *, message: str, progress: int | None
    ) -> ReportReceipt:
        """Record an agent's progress; its status too, unless it is a terminal one."""
        if progress is not None and not 0 <= progress <= 100:  # noqa: PLR2004 - per cent
            raise InvalidInput(f"a progress of {progress} is not between 0 and 100")
        line = {
            "timestamp": timestamp(),
            "agent_id": agent_id,
            "status": status.value,
            "message": message,
            "progress": progress,
        }

        def change(record: dict[str, Any]) -> None:
            record["last_update"] = line["timestamp"]
            record["message"] = message
            if progress is not None:
                record["progress"] = progress
            if not status.is_terminal:  # That is for the end to say.
                record["status"] = status.value

        return self._report(agent_id, line, "progress", change)

    def write_finding(
        self,
        agent_id: str,
        message: str,
        *,
        finding_type: str,
        severity: str,
        data: dict[str, Any] | None,
    ) -> ReportReceipt:
        """Record something that an agent has found."""
        if severity not in SEVERITIES:
            raise InvalidInput(
                f"{severity!r} is no severity", hint=f"use one of: {', '.join(SEVERITIES)}"
            )
        line = {
            "timestamp": timestamp(),
            "agent_id": agent_id,
            "finding_type": finding_type,
            "severity": severity,
            "message": message,
            "data": data,
        }

        def change(record: dict[str, Any]) -> None:
            record["last_update"] = line["timestamp"]

        return self._report(agent_id, line, "findings", change)

    def _report(
        self,
        agent_id: str,
        line: dict[str, Any],
        kind: str,
        change: Callable[[dict[str, Any]], None],
    ) -> ReportReceipt:
        task_id = self.task_of(agent_id)
        layout = self._context.layout
        path = {"progress": layout.progress, "findings": layout.findings}[kind](task_id, agent_id)
        try:
            encoded = msgspec.json.encode(line)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the report's data is not JSON: {error}") from error
        spaced = msgspec.json.format(encoded, indent=0)
        with self._context.task_registry(task_id).transaction() as document:
            record = find_agent(document, agent_id)
            if record is None:
                raise NotFound(f"task {task_id!r} has no agent {agent_id!r}")
            recorded = is_active(record.get("status"))
            if recorded:
                if not path.parent.is_dir():
                    durable.make_directory(path.parent)  # A task of the old system may lack it.
                durable.append_line(path, spaced)
                change(record)
        if recorded:
            return ReportReceipt(agent_id=agent_id, recorded=True, line=line)
        return ReportReceipt(
            agent_id=agent_id, recorded=False, line=line, end=self._end_report(agent_id)
        )

    def _end_report(self, agent_id: str) -> EndReport:
        """Return the report of an end, which may still be under way."""
        try:
            return self._terminator().report(agent_id)
        except NotFound:
            from orchestrator_core.deployment.queries import Queries  # noqa: PLC0415 - the same
            from orchestrator_core.model.outcome import EndReport  # noqa: PLC0415 - see __init__
            from orchestrator_core.reconcile.legacy import agent as reading  # noqa: PLC0415 - the same

            agent = Queries(self._context, self.task_of).agent(agent_id)
            if reading.is_legacy(agent.record):
                return reading.report_of(agent)
            return EndReport(
                agent_id=agent_id, status=agent.status, reason=agent.end_reason, handed_over=True
            )

    def task_of(self, agent_id: str) -> str:
        """
        Return the id of an agent's task.

        Raises:
            NotFound: There is no such agent.
        """
        if agent_id == os.environ.get(ENV_AGENT) and ENV_TASK in os.environ:
            return check_id("task", os.environ[ENV_TASK])
        known = self._tasks.get(agent_id)
        if known is not None and self._context.layout.task_registry(known).is_file():
            return known
        try:
            task_id = self._terminator().history(agent_id).labels.get("task_id")
        except NotFound:
            task_id = None
        # An agent of the old system has no journal; one that was damaged has lost its labels.
        task_id = task_id or self._search(agent_id)
        if task_id is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        if len(self._tasks) >= _CACHE_SIZE:
            self._tasks.clear()
        self._tasks[agent_id] = str(task_id)
        return str(task_id)

    def _search(self, agent_id: str) -> str | None:
        """Look through all tasks."""
        return next(
            (
                task_id
                for task_id in self._context.layout.task_ids()
                if find_agent(self._context.task_registry(task_id).read(), agent_id) is not None
            ),
            None,
        )
