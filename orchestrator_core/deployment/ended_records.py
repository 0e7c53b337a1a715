"""
Ends whose journals are gone: what the agent's record remembers of them.

Retention removes the journals of agents that ended long ago. Their records stay,
and each has the report of its end, all of it but the single steps: whoever asks
for the end of such an agent gets that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.model.outcome import EndReport
from orchestrator_core.reconcile.legacy.agent import is_legacy
from orchestrator_core.registry.operations import find_agent, is_finished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext

_NAMES = {field.name for field in attrs.fields(EndReport)} - {"steps", "children"}


def report_from_record(context: RootContext, agent_id: str) -> EndReport | None:
    """Return how an agent ended, by its record; None if that does not tell. Changes nothing."""
    for task_id in context.layout.task_ids():
        record = find_agent(context.task_registry(task_id).read_or_none() or {}, agent_id)
        if record is not None:
            return _parse_result(record) if is_finished(record) and not is_legacy(record) else None
    return None


def _parse_result(record: Mapping[str, Any]) -> EndReport | None:
    result = record["auto_cleanup_result"]
    if not isinstance(result, dict):
        return None
    told = {name: value for name, value in result.items() if name in _NAMES}
    names = [name for name in result.get("children") or () if isinstance(name, str)]
    children = [{"agent_id": name, "status": "", "reason": ""} for name in names]
    try:
        return msgspec.convert({**told, "children": children}, EndReport)
    except msgspec.ValidationError:
        return None  # Somebody has made something else of it.
