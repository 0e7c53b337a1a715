"""
What a task is about beyond its description: told once, and before every prompt of it.

It is kept in the task's registry, beside what the library keeps there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.model.layout import Layout
from orchestrator_core.registry import task_registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FIELD = "task_context"

_TITLES = {
    "background_context": "Background",
    "expected_deliverables": "Expected deliverables",
    "success_criteria": "Success criteria",
    "constraints": "Constraints",
    "relevant_files": "Relevant files",
}


def save_context(root: Path, task_id: str, context: Mapping[str, Any]) -> None:
    """Keep what was given of a task's context; durable when this returns."""
    given = {name: value for name, value in context.items() if value}
    if not given:
        return

    def enter(document: dict[str, Any]) -> None:
        document[FIELD] = given

    task_registry(Layout(root), task_id).update(enter)


def with_context(prompt: str, document: Mapping[str, Any]) -> str:
    """Return a prompt with the context of its task before it, if it has any."""
    kept = document.get(FIELD)
    known = kept if isinstance(kept, dict) else {}
    parts = [
        f"# {title}\n\n{_told(known[name])}" for name, title in _TITLES.items() if name in known
    ]
    if not parts:
        return prompt
    return "\n\n".join([*parts, f"# Your task\n\n{prompt}"])


def _told(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(f"- {each}" for each in value)
    return str(value)
