"""
End reports from the records of agents whose journals retention has removed.

The record keeps the report of the end, all of it but the single steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.deployment.task_lookup import find_record
from orchestrator_core.model.outcome import EndReport
from orchestrator_core.registry.operations import is_finished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext

_NAMES = {field.name for field in attrs.fields(EndReport)} - {"steps", "children"}


def report_from_record(context: RootContext, agent_id: str) -> EndReport | None:
    """Return how an agent ended, by its record; None if the record does not say. Read only."""
    found = find_record(context, agent_id)
    if found is None:
        return None
    _, record = found
    by_predecessor = context.predecessor.wrote(record)
    return _parse_result(record) if is_finished(record) and not by_predecessor else None


def _parse_result(record: Mapping[str, Any]) -> EndReport | None:
    result = record["auto_cleanup_result"]
    if not isinstance(result, dict):
        return None
    values = {name: value for name, value in result.items() if name in _NAMES}
    names = [name for name in result.get("children") or () if isinstance(name, str)]
    children = [{"agent_id": name, "status": "", "reason": ""} for name in names]
    try:
        return msgspec.convert({**values, "children": children}, EndReport)
    except msgspec.ValidationError:
        return None  # Another program changed the record.
