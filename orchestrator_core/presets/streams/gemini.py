"""
Gemini CLI's ``stream-json``.

``init``, then ``message``, ``tool_use``, ``tool_result`` and ``error``, and at last a
``result``; what the model says comes in pieces, marked ``delta``. See
https://geminicli.com/docs/cli/headless and, field by field,
packages/core/src/output/types.ts of github.com/google-gemini/gemini-cli at 04fbf507.
It tells tokens, and not their price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from orchestrator_core.presets.streams.events import (
    Event,
    Teller,
    integer,
    mapping,
    number,
    text,
    usage,
)

if TYPE_CHECKING:
    from orchestrator_core.presets.streams.result import AgentResult

_TYPES = frozenset({"init", "message", "tool_use", "tool_result", "error", "result"})


class Gemini(Teller):
    """Learns from Gemini CLI's events."""

    format: ClassVar[str] = "gemini"

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []  #: Of the last message, last first.
        self._is_whole = False  #: There are no more of them.

    @classmethod
    def knows(cls, event: Event) -> bool:
        """Tell whether an event is of this format."""
        is_dated = text(event.get("timestamp")) is not None
        # There are others with dated results; they spell their session's id differently.
        return event["type"] in _TYPES and is_dated and "sessionId" not in event

    def hear(self, event: Event) -> None:
        """Learn from an event."""
        self.learn(session_id=self.session_of(event))
        kind = event["type"]
        if kind == "result" and "is_error" not in self.known:
            self._end(event)
        elif kind == "message" and event.get("role") == "assistant":
            self._say(event)
        elif kind != "error":  # A warning may come between two pieces.
            self._is_whole = bool(self._pieces)
        self.has_enough = kind == "init"

    def _say(self, event: Event) -> None:
        is_piece = event.get("delta") is True
        if not self._is_whole and (is_piece or not self._pieces):
            self._pieces.append(text(event.get("content")) or "")
        self._is_whole = self._is_whole or not is_piece

    def _end(self, event: Event) -> None:
        stats = mapping(event.get("stats"))
        error = mapping(event.get("error"))
        self.learn(
            is_error={"success": False, "error": True}.get(str(event.get("status"))),
            error=text(error.get("message")) or text(error.get("type")),
            usage=usage(
                all_input=integer(stats.get("input_tokens")),
                cached=integer(stats.get("cached")),
                output=integer(stats.get("output_tokens")),
            ),
            duration_ms=number(stats.get("duration_ms")),
        )

    def told(self) -> AgentResult:
        """Return all that was learnt."""
        said = "".join(reversed(self._pieces)) or None
        self.learn(last_message=said)
        if self.known.get("is_error") is False:
            self.learn(result=said)
        return super().told()

    @staticmethod
    def session_of(event: Event) -> str | None:
        """Return the session's id: the first event tells it."""
        return text(event.get("session_id"))
