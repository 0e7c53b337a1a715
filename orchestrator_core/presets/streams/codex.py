"""
``codex exec --json``.

A thread starts, a turn starts, items come and are completed, the turn is completed
or fails; see https://developers.openai.com/codex/noninteractive (as of 2026-05-14),
docs/exec.md, and codex-rs/exec/src/exec_events.rs of github.com/openai/codex at
08a1f30c. It tells tokens, and neither their price nor how long it took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from orchestrator_core.presets.streams.events import (
    Event,
    Teller,
    integer,
    mapping,
    text,
    usage,
)

if TYPE_CHECKING:
    from orchestrator_core.presets.streams.result import TokenUsage

_TYPES = frozenset(
    {
        *("thread.started", "turn.started", "turn.completed", "turn.failed"),
        *("item.started", "item.updated", "item.completed", "error"),
    }
)


class Codex(Teller):
    """Learns from Codex's events."""

    format: ClassVar[str] = "codex"

    def __init__(self) -> None:
        super().__init__()
        self._is_before = False  #: What comes now is older than the turn.

    @classmethod
    def knows(cls, event: Event) -> bool:
        """Tell whether an event is of this format; an ``error`` of another's has a time."""
        return event["type"] in _TYPES and "timestamp" not in event

    def hear(self, event: Event) -> None:
        """Learn from an event."""
        self.learn(session_id=self.session_of(event))
        if not self._is_before:
            self._hear_of_turn(event)
        is_known = "last_message" in self.known and "is_error" in self.known
        self._is_before = self._is_before or event["type"] == "turn.started" or is_known
        self.has_enough = self._is_before and "session_id" in self.known

    def _hear_of_turn(self, event: Event) -> None:
        kind = event["type"]
        if kind == "turn.completed":
            self.learn(is_error=False, usage=_usage(mapping(event.get("usage"))))
        elif kind == "turn.failed":
            error = text(mapping(event.get("error")).get("message"))
            self.learn(is_error=True, error=error)
        elif kind == "error" and not self.has_heard:
            # With something after it, it was one that it has got over.
            self.learn(is_error=True, error=text(event.get("message")))
        elif kind == "item.completed":
            self._hear_of_item(mapping(event.get("item")))

    def _hear_of_item(self, item: Event) -> None:
        if item.get("type") == "agent_message" and "last_message" not in self.known:
            said = text(item.get("text"))
            self.learn(last_message=said)
            if self.known.get("is_error") is False:
                self.learn(result=said)

    @staticmethod
    def session_of(event: Event) -> str | None:
        """Return the thread's id: its start tells it."""
        return text(event.get("thread_id"))


def _usage(counted: Event) -> TokenUsage | None:
    return usage(
        all_input=integer(counted.get("input_tokens")),
        cached=integer(counted.get("cached_input_tokens")),
        output=integer(counted.get("output_tokens")),
    )
