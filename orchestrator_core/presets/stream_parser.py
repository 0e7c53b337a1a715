"""A parser of one tool's JSON lines, which it gets newest first: :class:`StreamParser`."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from orchestrator_core.presets.result import AgentResult, TokenUsage


class Event(dict[str, Any]):
    """One line of a stream: a JSON object. A value of an unexpected kind is read as None."""

    def text(self, key: str) -> str | None:
        """Return a string."""
        value = self.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """Return a whole number."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def number(self, key: str) -> float | None:
        """Return a number."""
        value = self.get(key)
        return value if isinstance(value, float) else self.integer(key)

    def mapping(self, key: str) -> Event:
        """Return an object; an empty one instead of None."""
        value = self.get(key)
        return Event(value if isinstance(value, dict) else {})

    def sequence(self, key: str) -> list[Any]:
        """Return an array; an empty one instead of None."""
        value = self.get(key)
        return value if isinstance(value, list) else []


def parse_event(line: bytes) -> Event | None:
    """Return the event in a line; None if the line is torn or contains anything else."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: not UTF-8
        return None
    return Event(event) if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def token_usage(
    *, all_input: int | None, cached: int | None, output: int | None
) -> TokenUsage | None:
    """Return the token counts; None if the tool counted neither input nor output."""
    if all_input is None and output is None:
        return None
    return TokenUsage(
        input_tokens=all_input or 0, cached_input_tokens=cached or 0, output_tokens=output or 0
    )


class StreamParser:
    """
    A parser of one format. The caller feeds events, newest first, until ``is_complete``.

    Attributes:
        known: The fields of the :class:`AgentResult` found so far. The first value of a
            field is the newest one, and stays.
        is_complete: Older events cannot change the result.
        matched_any: At least one event was of this format.
    """

    format: ClassVar[str]  #: The preset's name.
    session_key: ClassVar[str] = "session_id"  #: Under which some event has the session's id.

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.is_complete = False
        self.matched_any = False

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format."""
        raise NotImplementedError

    def feed(self, event: Event) -> None:
        """Add an event of this format, older than all events before."""
        self.set_if_missing(session_id=event.text(self.session_key))
        self._feed(event)
        self.matched_any = True

    def _feed(self, event: Event) -> None:
        raise NotImplementedError

    def set_if_missing(self, **values: object) -> None:
        """Set fields of the result that have no value yet. None is not a value."""
        for name, value in values.items():
            if value is not None:
                self.known.setdefault(name, value)

    def result(self) -> AgentResult:
        """Return the result from all events so far."""
        return AgentResult(format=self.format if self.matched_any else None, **self.known)
