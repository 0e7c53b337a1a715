"""A task's context: stored once with the task, and put before the prompt of each of its agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD = "task_context"  #: In the task's registry.

_TITLES = {
    "background_context": "Background",
    "expected_deliverables": "Expected deliverables",
    "success_criteria": "Success criteria",
    "constraints": "Constraints",
    "relevant_files": "Relevant files",
}


def context_field(**context: str | list[str] | None) -> dict[str, Any]:
    """Return the registry field of a *context*; none if all of it is empty."""
    given = {name: value for name, value in context.items() if value}
    return {FIELD: given} if given else {}


def with_context(prompt: str, record: Mapping[str, Any]) -> str:
    """Return a prompt after the context that its task's *record* has, if any."""
    context = record.get(FIELD)
    if not isinstance(context, dict):
        return prompt
    parts = [
        f"# {title}\n\n{_format(context[name])}"
        for name, title in _TITLES.items()
        if name in context
    ]
    return "\n\n".join([*parts, f"# Your task\n\n{prompt}"]) if parts else prompt


def _format(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(f"- {each}" for each in value)
    return str(value)
