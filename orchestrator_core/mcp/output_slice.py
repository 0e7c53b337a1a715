"""
An agent's output, cut down to what its reader asked for.

A pattern is a model's, and may be one that never comes to an end; and while Python
matches, it does nothing else. So it is matched by another process, which can be ended.
"""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.mcp import schemas

Format = Literal["text", "jsonl", "parsed"]
Response = Literal["full", "summary", "compact"]

_HINT = "give a regular expression as Python has them, or leave the filter out"
_MATCH_S = 5.0
_MATCHER = """
import re, sys
fits = re.compile(sys.argv[1]).search
sys.stdout.buffer.writelines(
    line for line in sys.stdin.buffer if fits(line.decode(errors="replace"))
)
"""
#: How many of the last lines each kind of response shows, and how much of each.
_SHORTER: dict[str, tuple[int, int]] = {"summary": (20, 500), "compact": (5, 200)}


@attrs.frozen(kw_only=True)
class OutputQuery:
    """Which part of an output is asked for; they are applied in this order."""

    filter: str | None = None
    format: Format = "text"
    tail: int | None = None
    response: Response = "full"
    max_bytes: int | None = None


@attrs.frozen
class OutputSlice:
    """The part that was asked for."""

    output: str | list[Any]
    metadata: schemas.OutputMetadata


def slice_output(text: str, wish: OutputQuery) -> OutputSlice:
    """
    Return what is asked for of *text*; of lines that are too many, the last ones.

    Raises:
        InvalidInput: The pattern is none, or a number is less than 0.
        WaitTimeout: The pattern takes too long to match.
    """
    for name in ("tail", "max_bytes"):
        if (getattr(wish, name) or 0) < 0:
            raise InvalidInput(
                f"{name} = {getattr(wish, name)} is less than 0", hint="leave it out for all"
            )
    every = _lines(text)
    lines = every if wish.filter is None else _matching(wish.filter, text)
    if wish.format != "text":
        lines = [line for line in lines if _value(line) is not _NONE]
    matching = len(lines)
    if wish.tail is not None:
        lines = lines[max(len(lines) - wish.tail, 0) :]
    lines = _within(_shorter(lines, wish), wish.max_bytes)
    output = [_value(line) for line in lines] if wish.format == "parsed" else "".join(lines)
    return OutputSlice(
        output,
        {
            "total_lines": len(every),
            "total_bytes": len(text.encode()),
            "matching_lines": matching,
            "returned_lines": len(lines),
            "truncated": len(lines) < matching,
        },
    )


def _matching(pattern: str, text: str) -> list[str]:
    try:
        ran = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-I", "-S", "-c", _MATCHER, pattern],
            input=text.encode(),
            capture_output=True,
            timeout=_MATCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WaitTimeout(
            f"the filter {pattern!r:.80} was not matched within {_MATCH_S:g} s",
            hint="use a simpler pattern, or tail",
        ) from error
    except ValueError as error:  # A NUL in it.
        raise InvalidInput(f"the filter is no pattern: {error}", hint=_HINT) from error
    if ran.returncode:
        why = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InvalidInput(f"the filter {pattern!r:.80} is no pattern: {why}", hint=_HINT)
    return _lines(ran.stdout.decode(errors="replace"))


def _lines(text: str) -> list[str]:
    """Take a text apart at its newlines; str.splitlines knows ten more, which JSON may hold."""
    return io.StringIO(text, newline="\n").readlines()


def _shorter(lines: Sequence[str], wish: OutputQuery) -> list[str]:
    if wish.response == "full":
        return list(lines)
    count, length = _SHORTER[wish.response]
    last = lines[-count:]
    if wish.format != "text":  # A value cut off is none.
        return list(last)
    return [line if len(line) <= length else f"{line[:length]}…\n" for line in last]


def _within(lines: list[str], limit: int | None) -> list[str]:
    if limit is None:
        return lines
    kept: list[str] = []
    for line in reversed(lines):
        limit -= len(line.encode())
        if limit < 0:
            break
        kept.append(line)
    return kept[::-1]


_NONE = object()


def _value(line: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError):
        return _NONE
