"""Who is entered in the registries: records in the tasks', entries in the global one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core import ids
from orchestrator_core.agents import is_active

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.registry.glance import Glance


@attrs.frozen
class Entered:
    """An agent that a registry shows as living."""

    agent_id: str
    task_id: str
    record: Mapping[str, Any]


def living_records(tasks: Mapping[str, Glance]) -> Iterator[Entered]:
    """Return the records of the tasks' registries that show an agent as living."""
    for task_id, registry in tasks.items():
        for record in (registry.document or {}).get("agents", ()):
            agent_id = record.get("id")
            if shows_living(record) and ids.is_id(agent_id):
                yield Entered(agent_id, task_id, record)


def living_entries(living: Glance | None) -> Iterator[Entered]:
    """Return the entries of the global registry: it lists none but the living."""
    document = None if living is None else living.document
    for agent_id, entry in (document or {}).get("agents", {}).items():
        if ids.is_id(agent_id):
            yield Entered(agent_id, str(entry.get("task_id")), entry)


def shows_living(record: Mapping[str, Any]) -> bool:
    """Tell whether a record shows an agent as living: it does, if nothing says that it ended."""
    status = record.get("status")
    return not isinstance(status, str) or is_active(status.lower())


def by_id(registry: Glance | None) -> dict[str, Mapping[str, Any]]:
    """Return the records of a task's registry, by agent id."""
    document = None if registry is None else registry.document
    return {
        record["id"]: record
        for record in (document or {}).get("agents", ())
        if ids.is_id(record.get("id"))
    }
