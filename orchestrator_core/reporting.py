"""
What agents say of themselves, and what is known of them.

A report is written under the lock of its task's registry: the line in the
agent's file and the change of its record go together, and an agent whose record
has ended gets neither. So no late line makes a file anew that was archived.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core import _files, ids
from orchestrator_core._clock import timestamp
from orchestrator_core.agents import ENV_AGENT, ENV_TASK, Agent, Status, Task, is_active
from orchestrator_core.exceptions import InvalidInput, NotFound
from orchestrator_core.records import find_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core.endings import EndReport
    from orchestrator_core.lifecycle import Lifecycle
    from orchestrator_core.streams import AgentResult
    from orchestrator_core.world import World

_KNOWN = 1000  #: Of so many agents the task is kept in mind.
SEVERITIES = ("low", "medium", "high", "critical", "info")


@attrs.frozen(kw_only=True)
class ReportReceipt:
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
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Reporter:
    """Reads and writes the records of one root's agents."""

    def __init__(self, world: World, lifecycle: Callable[[], Lifecycle]) -> None:
        self._world = world
        self._lifecycle = lifecycle  #: Made when first called: most reports need no ends.
        self._tasks: dict[str, str] = {}  #: Whose task is known: an agent never changes it.

    # --- writing -----------------------------------------------------------------------------

    def progress(
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

    def finding(
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
        places = self._world.places
        path = {"progress": places.progress, "findings": places.findings}[kind](task_id, agent_id)
        try:
            encoded = msgspec.json.encode(line)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the report's data is not JSON: {error}") from error
        spaced = msgspec.json.format(encoded, indent=0)

        def enter(document: dict[str, Any]) -> bool:
            record = find_agent(document, agent_id)
            if record is None:
                raise NotFound(f"task {task_id!r} has no agent {agent_id!r}")
            if not is_active(record.get("status")):
                return False
            if not path.parent.is_dir():
                _files.make_directory(path.parent)  # A task of the old system may lack it.
            _files.append_line(path, spaced)
            change(record)
            return True

        if self._world.task_registry(task_id).update(enter):
            return ReportReceipt(agent_id=agent_id, recorded=True, line=line)
        return ReportReceipt(
            agent_id=agent_id, recorded=False, line=line, end=self._end_of(agent_id)
        )

    def _end_of(self, agent_id: str) -> EndReport:
        """Return the report of an end, which may still be under way."""
        try:
            return self._lifecycle().report(agent_id)
        except NotFound:
            from orchestrator_core.endings import EndReport  # noqa: PLC0415 - see __init__
            from orchestrator_core.legacy import reading  # noqa: PLC0415 - the same

            agent = self.agent(agent_id)
            if reading.is_old(agent.record):
                return reading.report_of(agent)
            return EndReport(
                agent_id=agent_id, status=agent.status, reason=agent.end_reason, handed_over=True
            )

    # --- reading ---------------------------------------------------------------------------------

    def task_of(self, agent_id: str) -> str:
        """
        Return the id of an agent's task.

        Raises:
            NotFound: There is no such agent.
        """
        if agent_id == os.environ.get(ENV_AGENT) and ENV_TASK in os.environ:
            return ids.check_id("task", os.environ[ENV_TASK])
        known = self._tasks.get(agent_id)
        if known is not None and self._world.places.task_registry(known).is_file():
            return known
        try:
            task_id = self._lifecycle().history(agent_id).labels.get("task_id")
        except NotFound:
            task_id = None
        # An agent of the old system has no journal; one that was damaged has lost its labels.
        task_id = task_id or self._search(agent_id)
        if task_id is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        if len(self._tasks) >= _KNOWN:
            self._tasks.clear()
        self._tasks[agent_id] = str(task_id)
        return str(task_id)

    def _search(self, agent_id: str) -> str | None:
        """Look through all tasks."""
        return next(
            (
                task_id
                for task_id, document in self._documents()
                if find_agent(document, agent_id) is not None
            ),
            None,
        )

    def agent(self, agent_id: str) -> Agent:
        """Return one agent."""
        task_id = self.task_of(agent_id)
        record = find_agent(self._world.task_registry(task_id).read(), agent_id)
        if record is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        return Agent.from_record(task_id, record)

    def agents(self, *, task_id: str | None, status: str | None) -> list[Agent]:
        """Return the agents of one task or all, oldest first."""
        found = (
            Agent.from_record(name, record)
            for name, document in self._documents(task_id)
            for record in document.get("agents", ())
        )
        if status == "active":
            return [agent for agent in found if agent.is_active]
        return [agent for agent in found if status in (None, agent.status)]

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        return [Task.from_document(document) for _, document in self._documents()]

    def task(self, task_id: str) -> Task:
        """Return one task."""
        return Task.from_document({"task_id": task_id, **self._world.task_registry(task_id).read()})

    def _documents(self, task_id: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in self._world.places.task_ids() if task_id is None else [task_id]:
            yield name, {"task_id": name, **self._world.task_registry(name).read()}

    def output(self, agent_id: str, *, tail: int | None) -> str:
        """Return what an agent wrote, wherever its log is by now."""
        from orchestrator_core.kept import read_kept  # noqa: PLC0415 - for this alone

        task_id = self.task_of(agent_id)
        for path in self._logs(task_id, agent_id):
            try:
                text = read_kept(path).decode(errors="replace")
            except FileNotFoundError:
                continue
            return text if tail is None else _last_lines(text, tail)
        return ""

    def result(self, agent_id: str) -> AgentResult:
        """Return what an agent's output says of its result."""
        from orchestrator_core.streams import AgentResult, read_stream  # noqa: PLC0415 - as above

        agent = self.agent(agent_id)
        for path in self._logs(agent.task_id, agent_id):
            try:
                return read_stream(path, agent.record.get("preset"))
            except FileNotFoundError:
                continue
        return AgentResult()

    def _logs(self, task_id: str, agent_id: str) -> Iterator[Path]:
        """Yield where the log may be: in its place, where the report says, in the archive."""
        log = self._world.places.log(task_id, agent_id)
        yield log
        record = find_agent(self._world.task_registry(task_id).read(), agent_id) or {}
        # Its name may have been taken there, and it was given the next: a_stream.1.jsonl.
        told = _told_files(record, self._world.places.task(task_id))
        yield from (path for path in told if path.name.startswith(f"{log.stem}."))
        yield self._world.places.archive(task_id) / log.name
        # Moved there between our first look and now, perhaps; or never archived.
        yield log


def _told_files(record: dict[str, Any], task: Path) -> Iterator[Path]:
    """Yield the log and the archived files that a record names, if they are within its task."""
    tracked, result = record.get("tracked_files"), record.get("auto_cleanup_result")
    names = [tracked.get("log_file")] if isinstance(tracked, dict) else []
    archived = result.get("archived_files") if isinstance(result, dict) else None
    names += archived if isinstance(archived, list) else []
    for name in names:
        if isinstance(name, str) and "\0" not in name:
            path = Path(os.path.normpath(task / name))
            if path.is_relative_to(task):
                yield path


def _last_lines(text: str, count: int) -> str:
    if count <= 0:
        return ""
    lines = text.splitlines(keepends=True)
    return "".join(lines[-count:])
