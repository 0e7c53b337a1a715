"""An event is one line of a stream; a :class:`Teller` learns from events, newest first."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from orchestrator_core.presets.streams.result import AgentResult, TokenUsage

Event = dict[str, Any]


def event_of(line: bytes) -> Event | None:
    """Return the event that a line is; None if it is something else, or torn."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: not UTF-8
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def text(value: object) -> str | None:
    """Return a text; None if it is none."""
    return value if isinstance(value, str) else None


def integer(value: object) -> int | None:
    """Return a whole number; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """Return a number; None if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def mapping(value: object) -> Event:
    """Return a mapping; an empty one if it is none."""
    return value if isinstance(value, dict) else {}


def usage(*, all_input: int | None, cached: int | None, output: int | None) -> TokenUsage | None:
    """Return the tokens; None if neither input nor output was counted."""
    if all_input is None and output is None:
        return None
    return TokenUsage(
        input_tokens=all_input or 0, cached_input_tokens=cached or 0, output_tokens=output or 0
    )


class Teller:
    """
    Knows one format: is told events, newest first, until it has heard enough.

    ``known`` are the fields of an :class:`AgentResult` that it has learnt; what is
    learnt first is newer, and stays.
    """

    format: ClassVar[str]

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.has_enough = False
        self.has_heard = False

    @classmethod
    def knows(cls, event: Event) -> bool:
        """Tell whether an event is of this format."""
        raise NotImplementedError

    def hear(self, event: Event) -> None:
        """Learn from an event of this format that is older than all before."""
        raise NotImplementedError

    @staticmethod
    def session_of(event: Event) -> str | None:
        """Return the session's id, if this event tells it."""
        raise NotImplementedError

    def learn(self, **values: object) -> None:
        """Keep what is known now and was not before."""
        for name, value in values.items():
            if value is not None:
                self.known.setdefault(name, value)

    def told(self) -> AgentResult:
        """Return all that was learnt."""
        return AgentResult(format=self.format if self.has_heard else None, **self.known)
