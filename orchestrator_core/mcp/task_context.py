"""A task's context: stored once with the task, and put before the prompt of each of its agents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIELD = "task_context"  #: In the task's registry.

_TITLES = {
    "background_context": "Background",
    "expected_deliverables": "Expected deliverables",
    "success_criteria": "Success criteria",
    "constraints": "Constraints",
    "relevant_files": "Relevant files",
    "related_documentation": "Related documentation",
    "project_context": "The project",
    "phases": "Phases",
    "conversation_history": "The conversation before this task",
}
_MESSAGE_LENGTH = 4_000  #: Characters of one message of a conversation.
_CONVERSATION_LENGTH = 40_000  #: Of all its messages; the newest stay.


def context_field(**context: object) -> dict[str, Any]:
    """Return the registry field of a *context*; none if all of it is empty."""
    given = {name: value for name, value in context.items() if value}
    return {FIELD: given} if given else {}


def with_context(prompt: str, record: Mapping[str, Any]) -> str:
    """Return a prompt after the context that its task's *record* has, if any."""
    context = record.get(FIELD)
    if not isinstance(context, dict):
        return prompt
    parts = [
        f"# {title}\n\n{_format(name, context[name])}"
        for name, title in _TITLES.items()
        if name in context
    ]
    return "\n\n".join([*parts, f"# Your task\n\n{prompt}"]) if parts else prompt


def _format(name: str, value: object) -> str:
    if name == "conversation_history" and isinstance(value, list):
        return "\n\n".join(reversed([*_newest_first(value)]))
    if isinstance(value, list):
        return "\n".join(f"- {_item(each)}" for each in value)
    if isinstance(value, dict):
        return "\n".join(f"- {key}: {_item(each)}" for key, each in value.items())
    return str(value)


def _item(value: object) -> str:
    """Return one item on one line; that of an object begins with its name."""
    if isinstance(value, dict):
        rest = {key: each for key, each in value.items() if key != "name"}
        parts = [f"{key}: {_item(each)}" for key, each in rest.items() if each]
        return "; ".join([*([str(value["name"])] if "name" in value else []), *parts])
    if isinstance(value, list):
        return ", ".join(map(_item, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _newest_first(messages: list[Any]) -> Iterator[str]:
    """Yield the messages of a conversation that have room in a prompt."""
    room = _CONVERSATION_LENGTH
    for message in reversed(messages):
        role, text = "", message
        if isinstance(message, dict):
            role, text = f"{message.get('role', '')}: ", message.get("content", "")
        text = str(text).strip()
        if len(text) > _MESSAGE_LENGTH:
            text = f"{text[:_MESSAGE_LENGTH]}…"
        room -= len(text)
        if room < 0:
            yield "(earlier messages are left out)"
            return
        yield f"{role}{text}"
