"""
The part of an agent's output that a client asks for.

A pattern comes from a model, and matching it may take exponential time, during which Python
runs nothing else. So another process matches it, which can be killed.
"""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput, WaitTimeout

if TYPE_CHECKING:
    from orchestrator_core.mcp import schemas

Format = Literal["text", "jsonl", "parsed"]
Response = Literal["full", "summary", "compact"]

_HINT = "give a Python regular expression, or leave the filter out"
_MATCH_TIMEOUT_S = 5.0
_MATCHER = """
import re, sys
matches = re.compile(sys.argv[1]).search
sys.stdout.buffer.writelines(
    line for line in sys.stdin.buffer if matches(line.decode(errors="replace"))
)
"""
#: For each shorter response, the number of last lines and the characters of each.
_SHORTER: dict[str, tuple[int, int]] = {"summary": (20, 500), "compact": (5, 200)}
_INVALID = object()


@attrs.frozen(kw_only=True)
class OutputQuery:
    """The part of an output that is asked for; the fields apply in this order."""

    filter: str | None = None
    format: Format = "text"
    tail: int | None = None
    response: Response = "full"
    max_bytes: int | None = None


@attrs.frozen
class OutputSlice:
    """The part of an output that was asked for."""

    output: str | list[Any]
    metadata: schemas.OutputMetadata


def slice_output(text: str, query: OutputQuery) -> OutputSlice:
    """
    Return the part of *text* that *query* asks for; of too many lines, the last ones.

    Raises:
        InvalidInput: The pattern is invalid, or a number is less than 0.
        WaitTimeout: The pattern takes too long to match.
    """
    for name, number in (("tail", query.tail), ("max_bytes", query.max_bytes)):
        if (number or 0) < 0:
            raise InvalidInput(f"{name} = {number} is less than 0", hint="leave it out for all")
    all_lines = _split_lines(text)
    matching = all_lines if query.filter is None else _matching(query.filter, text)
    if query.format != "text":
        matching = [line for line in matching if _decode(line) is not _INVALID]
    lines = matching if query.tail is None else _last(matching, query.tail)
    lines = _within_bytes(_shorten(lines, query), query.max_bytes)
    output = [_decode(line) for line in lines] if query.format == "parsed" else "".join(lines)
    return OutputSlice(
        output,
        {
            "total_lines": len(all_lines),
            "total_bytes": len(text.encode()),
            "matching_lines": len(matching),
            "returned_lines": len(lines),
            "truncated": len(lines) < len(matching),
        },
    )


def _matching(pattern: str, text: str) -> list[str]:
    try:
        matcher = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-I", "-S", "-c", _MATCHER, pattern],
            input=text.encode(),
            capture_output=True,
            timeout=_MATCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WaitTimeout(
            f"the filter {pattern!r:.80} was not matched within {_MATCH_TIMEOUT_S:g} s",
            hint="use a simpler pattern, or tail",
        ) from error
    except ValueError as error:  # The pattern contains a NUL.
        raise InvalidInput(f"the filter is no pattern: {error}", hint=_HINT) from error
    if matcher.returncode:
        why = matcher.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InvalidInput(f"the filter {pattern!r:.80} is no pattern: {why}", hint=_HINT)
    return _split_lines(matcher.stdout.decode(errors="replace"))


def _split_lines(text: str) -> list[str]:
    """Split at newlines only; str.splitlines splits at ten more, which JSON may contain."""
    return io.StringIO(text, newline="\n").readlines()


def _last(lines: list[str], count: int) -> list[str]:
    return lines[max(len(lines) - count, 0) :]


def _shorten(lines: list[str], query: OutputQuery) -> list[str]:
    if query.response == "full":
        return lines
    count, length = _SHORTER[query.response]
    if query.format != "text":  # A JSON value that is cut off is invalid.
        return lines[-count:]
    return [line if len(line) <= length else f"{line[:length]}…\n" for line in lines[-count:]]


def _within_bytes(lines: list[str], limit: int | None) -> list[str]:
    if limit is None:
        return lines
    sizes = itertools.accumulate(len(line.encode()) for line in reversed(lines))
    return _last(lines, sum(size <= limit for size in sizes))


def _decode(line: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError):
        return _INVALID
