"""The task of each agent, from the environment, a cache, its journal or the registries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import NotFound, SagaNotFound
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext

_CACHE_SIZE = 1000  #: Agents whose task is cached; an agent's task never changes.


def find_record(context: RootContext, agent_id: str) -> tuple[str, dict[str, Any]] | None:
    """Return an agent's task and record; None if no readable registry has it. Read only."""
    for task_id in context.layout.task_ids():
        record = find_agent(context.task_registry(task_id).read_or_none() or {}, agent_id)
        if record is not None:
            return task_id, record
    return None


class TaskLookup:
    """The index from an agent's id to its task, for one root."""

    def __init__(self, context: RootContext) -> None:
        self._context = context
        self._cache: dict[str, str] = {}

    def task_of(self, agent_id: str) -> str:
        """
        Return the id of an agent's task.

        Raises:
            NotFound: There is no such agent.
        """
        if agent_id == os.environ.get(ENV_AGENT) and ENV_TASK in os.environ:
            return check_id("task", os.environ[ENV_TASK])
        cached = self._cache.get(agent_id)
        if cached is not None and self._context.layout.task_registry(cached).is_file():
            return cached
        # A legacy agent has no journal, and a journal that was damaged may lack its labels.
        task_id = self._from_journal(agent_id) or self._from_registries(agent_id)
        if task_id is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[agent_id] = task_id
        return task_id

    def _from_journal(self, agent_id: str) -> str | None:
        try:
            task_id = self._context.journals.history(agent_id).labels.get("task_id")
        except SagaNotFound:
            return None
        return str(task_id) if task_id else None

    def _from_registries(self, agent_id: str) -> str | None:
        """Search all registries; a damaged one is rebuilt by that."""
        for task_id in self._context.layout.task_ids():
            if find_agent(self._context.task_registry(task_id).read(), agent_id) is not None:
                return task_id
        return None
