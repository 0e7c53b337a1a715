"""Queries: the records of tasks and agents, and the output of agents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.report_reader import T, read_reports
from orchestrator_core.deployment.task_lookup import task_of
from orchestrator_core.exceptions import NotFound
from orchestrator_core.model.records import Agent, ReportedFinding, ReportedProgress, Task
from orchestrator_core.model.status import Status
from orchestrator_core.presets.log_reader import LogReading, read_log
from orchestrator_core.presets.result import AgentResult
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.gzip_read import read_maybe_gzipped
from orchestrator_core.system.names import check_id
from orchestrator_core.system.processes.exit_record import read_exit_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.deployment.context import RootContext


class Queries:
    """The tasks and agents of one root, read from their records and files."""

    def __init__(self, context: RootContext) -> None:
        self._context = context

    def agent(self, agent_id: str) -> Agent:
        """Return one agent."""
        task_id = task_of(self._context, agent_id)
        record = find_agent(self._context.task_registry(task_id).read(), agent_id)
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
        [(_, document)] = self._documents(task_id)
        return Task.from_document(document)

    def _documents(self, task_id: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in self._context.layout.task_ids() if task_id is None else [task_id]:
            yield name, {"task_id": name, **self._context.task_registry(name).read()}

    def findings(
        self, agent_id: str | None, task_id: str | None, *, last: int | None
    ) -> list[ReportedFinding]:
        """Return the findings of an agent, or of all agents of a task without *agent_id*."""
        return self._reports(ReportedFinding, agent_id, task_id, last)

    def progress(
        self, agent_id: str | None, task_id: str | None, *, last: int | None
    ) -> list[ReportedProgress]:
        """Return the progress reports of an agent, or of all agents of a task."""
        return self._reports(ReportedProgress, agent_id, task_id, last)

    def _reports(
        self, kind: type[T], agent_id: str | None, task_id: str | None, last: int | None
    ) -> list[T]:
        if agent_id is None:
            found = self.task(check_id("task", task_id)).id
        else:
            found = self.agent(agent_id).task_id
            if task_id not in (None, found):
                raise NotFound(f"task {task_id!r} has no agent {agent_id!r}")
        return read_reports(kind, self._context.layout, found, agent_id, last=last)

    def output(self, agent_id: str, *, tail: int | None) -> str:
        """Return what an agent wrote, from its log or the archived log."""
        task_id = task_of(self._context, agent_id)
        for path in self._logs(task_id, agent_id):
            try:
                text = read_maybe_gzipped(path).decode(errors="replace")
            except FileNotFoundError:
                continue
            return text if tail is None else _last_lines(text, tail)
        return ""

    def result(self, agent_id: str) -> AgentResult:
        """Return the result in an agent's output; without a verdict while the agent works."""
        agent = self.agent(agent_id)
        for path in self._logs(agent.task_id, agent_id):
            try:
                reading = read_log(path, agent.record.get("preset"))
            except FileNotFoundError:
                continue
            return self._result(agent, reading)
        return AgentResult()

    def _result(self, agent: Agent, reading: LogReading) -> AgentResult:
        result = reading.result
        exit_file = self._context.layout.run_dir(agent.task_id, agent.id) / "exit"
        if agent.is_active and read_exit_record(str(exit_file)) is None:
            # A tool may go on after it has written a result.
            return attrs.evolve(result, is_error=None, result=None, error=None)
        if agent.status == Status.FAILED.value and result.is_error is None:
            exit_code = agent.record.get("exit_code")
            return attrs.evolve(result, error=reading.reason(exit_code) or None)
        return result

    def _logs(self, task_id: str, agent_id: str) -> Iterator[Path]:
        """Yield the possible paths of the log, in the order in which it moves."""
        log = self._context.layout.log(task_id, agent_id)
        yield log
        record = find_agent(self._context.task_registry(task_id).read(), agent_id) or {}
        # The archive may have had a file of that name: then this one is a_stream.1.jsonl.
        recorded = _recorded_files(record, self._context.layout.task(task_id))
        yield from (path for path in recorded if path.name.startswith(f"{log.stem}."))
        yield self._context.layout.archive(task_id) / log.name
        yield log  # Once more, for a log that moved between the attempts.


def _recorded_files(record: dict[str, Any], task: Path) -> Iterator[Path]:
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
