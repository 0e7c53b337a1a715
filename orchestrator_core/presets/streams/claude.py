"""
Claude Code's ``stream-json``.

Its lines are the messages of its Agent SDK: a ``system`` one of subtype ``init``, then
``assistant`` and ``user`` ones, and at last a ``result``; see
https://code.claude.com/docs/en/agent-sdk/typescript#message-types and, field by field,
src/claude_agent_sdk/_internal/message_parser.py of
github.com/anthropics/claude-agent-sdk-python at 008e361d. Input tokens are counted
without those of the cache there, as in https://platform.claude.com/docs/en/build-with-claude/prompt-caching
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
    from orchestrator_core.presets.streams.result import TokenUsage

_TYPES = frozenset({"system", "assistant", "user", "result", "stream_event"})


class Claude(Teller):
    """Learns from Claude Code's events."""

    format: ClassVar[str] = "claude"

    @classmethod
    def knows(cls, event: Event) -> bool:
        """Tell whether an event is of this format."""
        return event["type"] in _TYPES and text(event.get("session_id")) is not None

    def hear(self, event: Event) -> None:
        """Learn from an event."""
        self.learn(session_id=self.session_of(event))
        kind = event["type"]
        if kind == "result" and "is_error" not in self.known:
            self._end(event)
        elif kind == "assistant" and event.get("parent_tool_use_id") is None:
            # One with a parent is a subagent's.
            self.learn(last_message=_said(event))
        is_begun = kind == "system" and event.get("subtype") == "init"
        self.has_enough = is_begun or "last_message" in self.known

    def _end(self, event: Event) -> None:
        is_error = event.get("is_error")
        self.learn(
            is_error=is_error if isinstance(is_error, bool) else None,
            result=text(event.get("result")),
            error=_error(event) if is_error else None,
            cost_usd=number(event.get("total_cost_usd")),
            usage=_usage(mapping(event.get("usage"))),
            turns=integer(event.get("num_turns")),
            duration_ms=number(event.get("duration_ms")),
        )

    @staticmethod
    def session_of(event: Event) -> str | None:
        """Return the session's id: every event has it."""
        return text(event.get("session_id"))


def _said(event: Event) -> str | None:
    content = mapping(event.get("message")).get("content")
    blocks = [mapping(block) for block in content] if isinstance(content, list) else []
    texts = [text(block.get("text")) for block in blocks if block.get("type") == "text"]
    return "".join(each for each in texts if each) or None


def _error(event: Event) -> str | None:
    errors = event.get("errors")
    told = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
    return "; ".join(told) or text(event.get("result")) or text(event.get("subtype"))


def _usage(counted: Event) -> TokenUsage | None:
    fresh = integer(counted.get("input_tokens"))
    written = integer(counted.get("cache_creation_input_tokens"))
    cached = integer(counted.get("cache_read_input_tokens"))
    return usage(
        all_input=None if fresh is None else fresh + (written or 0) + (cached or 0),
        cached=cached,
        output=integer(counted.get("output_tokens")),
    )
