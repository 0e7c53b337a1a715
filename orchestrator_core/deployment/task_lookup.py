"""The task of each agent, from the environment, its journal or the registries."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import (
    CouldNotAsk,
    JournalDamaged,
    LockTimeout,
    NotFound,
    RegistryError,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.model import environment
from orchestrator_core.model.environment import ENV_AGENT, ENV_TASK
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext


def find_record(
    context: RootContext, agent_id: str, *, rebuild: bool = False
) -> tuple[str, dict[str, Any]] | None:
    """
    Return an agent's task and record; None if no registry has it.

    A registry that cannot be read is skipped; with *rebuild*, a damaged one is rebuilt first.

    Raises:
        CouldNotAsk: With *rebuild*, no registry that can be read has it, and another cannot.
    """
    unread: list[str] = []
    for task_id in context.layout.task_ids():
        registry = context.task_registry(task_id)
        document = registry.read_or_none()
        if document is None and rebuild:
            try:
                document = registry.read()
            except NotFound:
                continue  # Removed since the listing.
            except (RegistryError, StorageError, LockTimeout) as error:
                unread.append(str(error))
        record = find_agent(document or {}, agent_id)
        if record is not None:
            return task_id, record
    if unread:
        raise CouldNotAsk(
            f"agent {agent_id!r} is in no registry that can be read, and these cannot: "
            f"{'; '.join(unread)}",
            hint="orchestrator-core doctor",
        )
    return None


def task_of(context: RootContext, agent_id: str) -> str:
    """
    Return the id of an agent's task.

    Raises:
        NotFound: There is no such agent.
        CouldNotAsk: No registry that can be read has it, and another cannot be read.
    """
    own_task = environment.variable(ENV_TASK)
    if own_task is not None and agent_id == environment.variable(ENV_AGENT):
        return check_id("task", own_task)
    with contextlib.suppress(SagaNotFound, JournalDamaged):
        task_id = context.journals.history(agent_id).labels.get("task_id")
        if task_id:
            return str(task_id)
    # A legacy agent has no journal, and a journal that was damaged may lack its labels.
    found = find_record(context, agent_id, rebuild=True)
    if found is None:
        raise NotFound(f"there is no agent {agent_id!r}")
    return found[0]
