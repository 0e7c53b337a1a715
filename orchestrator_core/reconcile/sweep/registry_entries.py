"""Who is entered in the registries: records in the tasks', entries in the global one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.model.status import is_active
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.registry.snapshot_cache import RegistrySnapshot

    Records = Mapping[str, Mapping[str, Mapping[str, Any]]]
    """All tasks' records, by task and by agent."""


@attrs.frozen
class Entered:
    """An agent that a registry shows as living."""

    agent_id: str
    task_id: str
    record: Mapping[str, Any]


def living_records(records: Records) -> Iterator[Entered]:
    """Return those of *records* that show an agent as living."""
    for task_id, agents in records.items():
        for agent_id, record in agents.items():
            if shows_living(record):
                yield Entered(agent_id, task_id, record)


def living_entries(living: RegistrySnapshot | None) -> Iterator[Entered]:
    """Return the entries of the global registry: it lists none but the living."""
    document = None if living is None else living.document
    for agent_id, entry in (document or {}).get("agents", {}).items():
        if is_id(agent_id):
            yield Entered(agent_id, str(entry.get("task_id")), entry)


def shows_living(record: Mapping[str, Any]) -> bool:
    """Tell whether a record shows an agent as living: it does, if nothing says that it ended."""
    return is_active(record.get("status"))
