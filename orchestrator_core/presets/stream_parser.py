"""A parser of one tool's JSON lines, which it gets newest first: :class:`StreamParser`."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from orchestrator_core.presets.result import AgentResult, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST_REASON = 500  #: Characters of a line of text that are kept.
_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
)
_HEADING = re.compile(r"[A-Z][A-Za-z ]*:")  #: Of a part of a program's help.
#: Lines that explain nothing, whichever program writes them.
_NOISE = ("Stack backtrace:", "Traceback (", "Node.js v", "For more information, try")
_HELP = ("Usage:", "usage:")  #: How a program's help begins.


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


def parse_events(line: bytes) -> list[Event]:
    """
    Return the events in a line, oldest first; none if it is torn or contains anything else.

    A tool that writes its whole stream as one JSON array has all events in one line.
    """
    values = _decode(line) if line.lstrip()[:1] in {b"{", b"["} else None
    values = values if isinstance(values, list) else [values]
    found = (Event(value) for value in values if isinstance(value, dict))
    return [event for event in found if event.text("type") is not None]


def _decode(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        if not line.rstrip().endswith((b"}", b"]")):
            return None  # The line is torn.
    # Programs write what JSON does not allow: half a surrogate pair, bytes that are no UTF-8.
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(line.decode(errors="replace")), ensure_ascii=False)
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    return None


def parse_text(line: bytes) -> str | None:
    """Return a line that is text, not JSON, without colours; None if it explains nothing."""
    text = _ESCAPE_SEQUENCE.sub("", line[: 4 * _LONGEST_REASON].decode(errors="replace"))
    is_frame = text[:1].isspace()  # A stack's frames, and continued lines, are indented.
    if is_frame or text[:1] in {"{", "["} or text.startswith(_NOISE):
        return None
    if not any(map(str.isalpha, text)) or _HEADING.fullmatch(text.strip()):
        return None
    return "".join(filter(str.isprintable, text.strip()))[:_LONGEST_REASON]


def token_usage(
    *, all_input: int | None, cached: int | None, output: int | None
) -> TokenUsage | None:
    """Return the token counts; None if the tool counted neither input nor output."""
    if all_input is None and output is None:
        return None
    return TokenUsage(
        input_tokens=all_input or 0, cached_input_tokens=cached or 0, output_tokens=output or 0
    )


def retry_text(attempt: object, *, of: object = None, why: object = None) -> str:
    """Return a repeated call in one form for all tools: "attempt 4 of 10, 401"."""
    limit = "" if of is None else f" of {of}"
    return f"attempt {attempt}{limit}{'' if why is None else f', {why}'}"


class StreamParser:
    """
    A parser of one format. The caller feeds events and texts, newest first.

    It stops when ``is_complete``.

    Attributes:
        known: The fields of the :class:`AgentResult` found so far. The first value of a
            field is the newest one, and stays.
        is_complete: Older events cannot change the result.
        matched_any: At least one event was of this format.
    """

    format: ClassVar[str]  #: The preset's name.
    session_key: ClassVar[str] = "session_id"  #: Under which some event has the session's id.
    noise: ClassVar[tuple[str, ...]] = ()  #: How lines begin that never say why a run failed.
    exit_codes: ClassVar[Mapping[int, str]] = {}  #: Exit statuses with a meaning of their own.

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.is_complete = False
        self.matched_any = False
        self._last_text: str | None = None
        self._text_after_help: str | None = None

    @property
    def last_text(self) -> str | None:
        """The newest line of text that explains something: rather before than after a help."""
        return self._last_text or self._text_after_help

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format."""
        raise NotImplementedError

    def can_skip(self, line: bytes) -> bool:  # noqa: ARG002 - for the formats that can
        """Return whether a line of JSON, older than all lines before, changes nothing."""
        return False

    def feed(self, event: Event) -> None:
        """Add an event of this format, older than all lines before."""
        self.set_if_missing(session_id=event.text(self.session_key))
        self._feed(event)
        self.matched_any = True

    def _feed(self, event: Event) -> None:
        raise NotImplementedError

    def feed_text(self, text: str) -> None:
        """Add a line of text, older than all lines before."""
        retry = self._retry_in(text)
        self.set_if_missing(retry=retry)
        if text.startswith(_HELP):
            self._text_after_help, self._last_text = self.last_text, None
        elif self._last_text is None and retry is None and not text.startswith(self.noise):
            self._last_text = text

    def _retry_in(self, text: str) -> str | None:
        """Return the repeated call that a text reports."""

    def set_if_missing(self, **values: object) -> None:
        """Set fields of the result that have no value yet. None is not a value."""
        for name, value in values.items():
            if value is not None:
                self.known.setdefault(name, value)

    def result(self) -> AgentResult:
        """Return the result from all events so far."""
        return AgentResult(format=self.format if self.matched_any else None, **self.known)
