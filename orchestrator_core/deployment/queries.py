"""Queries: the records of tasks and agents, and the output of agents."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from orchestrator_core.deployment.output_reader import (
    AgentOutput,
    check_range,
    open_log_file,
    read_part,
)
from orchestrator_core.deployment.report_reader import T, read_reports
from orchestrator_core.deployment.task_lookup import task_of
from orchestrator_core.exceptions import (
    LockTimeout,
    NotFound,
    OrchestratorError,
    RegistryError,
    StorageError,
)
from orchestrator_core.model.records import Agent, ReportedFinding, ReportedProgress, Task
from orchestrator_core.model.status import Status
from orchestrator_core.presets.log_reader import LogReading, read_log
from orchestrator_core.presets.result import AgentResult
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.clock import parse_timestamp
from orchestrator_core.system.names import check_id, is_id
from orchestrator_core.system.processes.exit_record import read_exit_record

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from orchestrator_core.deployment.context import RootContext


class Queries:
    """The tasks and agents of one root, read from their records and files."""

    def __init__(self, context: RootContext) -> None:
        self._context = context

    def agent(self, agent_id: str) -> Agent:
        """Return one agent."""
        task_id = task_of(self._context, agent_id)
        try:
            record = find_agent(self._context.task_registry(task_id).read(), agent_id)
        except (RegistryError, StorageError, NotFound):
            record = self._entries(without=()).get(agent_id)
            if record is None:
                raise
        if record is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        return Agent.from_record(task_id, {**record, "id": agent_id})

    def agents(self, *, task_id: str | None, status: str | None) -> list[Agent]:
        """
        Return the agents of one task or all, oldest first.

        Of a task whose registry cannot be read, the live agents are those of the global registry.
        """
        found = self._listed(task_id)
        if status == "active":
            return [agent for agent in found if agent.is_active]
        return [agent for agent in found if status in (None, agent.status)]

    def _listed(self, task_id: str | None) -> list[Agent]:
        documents = self._documents() if task_id is None else {}
        if task_id is not None:
            try:
                documents[task_id] = self._document(task_id)
            except (RegistryError, StorageError, NotFound) as error:
                entries = self._entries(without=())
                if not any(entry.get("task_id") == task_id for entry in entries.values()):
                    raise
                self._note_unreadable(task_id, error)
        agents = [
            Agent.from_record(name, record)
            for name, document in documents.items()
            for record in document.get("agents", ())
        ]
        for agent_id, entry in self._entries(without=documents).items():
            name = str(entry.get("task_id"))
            if task_id in (None, name):
                self._note_if_gone(name)
                agents.append(Agent.from_record(name, {**entry, "id": agent_id}))
        return sorted(agents, key=lambda agent: parse_timestamp(agent.started_at) or 0.0)

    def _note_if_gone(self, task_id: str) -> None:
        """Note that the registry of a task with live agents was removed, if it was."""
        path = self._context.layout.task_registry(task_id)
        if not os.path.lexists(path):
            self._context.unreadable.setdefault(str(path), "it is gone, and its agents live on")

    def _entries(self, *, without: Container[str]) -> dict[str, dict[str, Any]]:
        """Return the live agents in the global registry but those of the tasks *without*."""
        registry = self._context.global_registry
        try:
            entries: dict[str, dict[str, Any]] = registry.read().get("agents", {})
        except (RegistryError, StorageError, NotFound) as error:
            self._context.unreadable[str(registry.path)] = str(error)
            return {}
        self._context.unreadable.pop(str(registry.path), None)
        return {
            agent_id: entry
            for agent_id, entry in entries.items()
            if is_id(entry.get("task_id"))
            and entry["task_id"] not in without
            and not self._context.predecessor.wrote(entry)
        }

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first; without those whose registry cannot be read."""
        tasks = [Task.from_document(document) for document in self._documents().values()]
        return sorted(tasks, key=lambda task: task.age_key)

    def task(self, task_id: str) -> Task:
        """Return one task."""
        return Task.from_document(self._document(task_id))

    def _documents(self) -> dict[str, dict[str, Any]]:
        """Return the registries of all tasks that can be read, and note the others."""
        found: dict[str, dict[str, Any]] = {}
        self._context.unreadable.clear()
        for name in self._context.layout.task_ids():
            try:
                found[name] = self._document(name)
            except NotFound:
                continue  # Removed since the listing.
            except (RegistryError, StorageError, LockTimeout) as error:
                self._note_unreadable(name, error)
        return found

    def _document(self, task_id: str) -> dict[str, Any]:
        # The directory names the task, whatever an edited document says.
        return {**self._context.task_registry(task_id).read(), "task_id": task_id}

    def _note_unreadable(self, task_id: str, error: OrchestratorError) -> None:
        """Note why a task's registry could not be read; its agents may be missing."""
        self._context.unreadable[str(self._context.layout.task_registry(task_id))] = str(error)

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

    def output(
        self, agent_id: str, *, tail: int | None, offset: int | None, max_bytes: int | None
    ) -> AgentOutput:
        """Return a part of what an agent wrote, from its log or the archived log."""
        check_range(tail, offset, max_bytes)
        for path in self._logs(task_of(self._context, agent_id), agent_id):
            with contextlib.suppress(FileNotFoundError):
                return read_part(path, tail=tail, offset=offset, max_bytes=max_bytes)
        return AgentOutput()

    def open_output(self, agent_id: str) -> BinaryIO:
        """Return an agent's log, or the archived log, as a file."""
        for path in self._logs(task_of(self._context, agent_id), agent_id):
            with contextlib.suppress(FileNotFoundError):
                return open_log_file(path)
        return io.BytesIO()

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
        document = self._context.task_registry(task_id).read_or_none() or {}
        record = find_agent(document, agent_id) or {}
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
