"""
The part of an agent's output that a client asks for, in bounded memory.

A pattern comes from a model, and matching it may take exponential time, during which Python
runs nothing else. So another process matches it, which can be killed.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput, WaitTimeout

if TYPE_CHECKING:
    from orchestrator_core.deployment.output_reader import AgentOutput
    from orchestrator_core.orchestrator import Orchestrator

Format = Literal["text", "jsonl", "parsed"]
Response = Literal["full", "summary", "compact"]

DEFAULT_MAX_BYTES = 50_000  #: A model reads about four bytes a token.
_MOST_BYTES = 8 << 20  #: Read at once, and the largest *max_bytes*.
_HINT = "give a Python regular expression, or leave the filter out"
_MATCH_TIMEOUT_S = 5.0
#: Reads lines, and writes a line of JSON with two numbers, then the last matching lines.
_MATCHER = """
import collections, re, sys
matches, limit = re.compile(sys.argv[1]).search, int(sys.argv[2])
kept, size, count = collections.deque(), 0, 0
while line := sys.stdin.buffer.readline(limit):
    if matches(line.decode(errors="replace")):
        kept.append(line)
        size, count = size + len(line), count + 1
        while size > limit:
            size -= len(kept.popleft())
sys.stdout.buffer.write(b"%d\\n" % count)
sys.stdout.buffer.writelines(kept)
"""
#: For each shorter response: the number of last lines, the characters of each text, and the
#: items of each list in them.
_SHORTER: dict[str, tuple[int, int, int]] = {"summary": (20, 500, 10), "compact": (5, 200, 3)}
_INVALID = object()


@attrs.frozen(kw_only=True)
class OutputQuery:
    """The part of an output that is asked for; the fields apply in this order."""

    offset: int | None = None
    filter: str | None = None
    format: Format = "text"
    tail: int | None = None
    response: Response = "full"
    max_bytes: int | None = None

    def __attrs_post_init__(self) -> None:
        """Take as few lines as the response has."""
        if self.response != "full":
            count = _SHORTER[self.response][0]
            tail = count if self.tail is None else min(self.tail, count)
            object.__setattr__(self, "tail", tail)

    @property
    def limit(self) -> int:
        """The most bytes of the answer."""
        return DEFAULT_MAX_BYTES if self.max_bytes is None else min(self.max_bytes, _MOST_BYTES)


@attrs.frozen(kw_only=True)
class OutputSlice:
    """The part of an output that was asked for."""

    output: str | list[Any]
    truncated: bool  #: Whether a limit left out something that was asked for.
    offset: int  #: The bytes before the part; with a filter, 0.
    next_offset: int  #: Where the following part begins.
    size: int
    returned_lines: int
    matching_lines: int | None = None  #: With a filter: how many lines of the whole match.
    ends: tuple[Any, ...] = ()  #: The first and the last line, as JSON if they are.


def slice_output(orch: Orchestrator, agent_id: str, query: OutputQuery) -> OutputSlice:
    """
    Return the part of an agent's output that *query* asks for; of too many lines, the last ones.

    Raises:
        InvalidInput: The pattern is invalid, or a number is less than 0.
        WaitTimeout: The pattern takes too long to match.
    """
    if (query.max_bytes or 0) < 0:
        raise InvalidInput(f"max_bytes = {query.max_bytes} is less than 0", hint="leave it out")
    part = _read(orch, agent_id, query)
    lines = _of_format(_split_lines(part.text), query)
    wanted = lines if query.tail is None else _last(lines, query.tail)
    chosen = _shorten(wanted, query)
    fitting = _within_bytes(chosen, query.limit)
    if chosen and not fitting and query.format == "text" and query.limit:
        fitting = [chosen[-1].encode()[-query.limit :].decode(errors="ignore")]  # One long line.
    lacks_lines = part.truncated and (query.tail is None or len(lines) < query.tail)
    return OutputSlice(
        output=[_decode(each) for each in fitting]
        if query.format == "parsed"
        else "".join(fitting),
        truncated=fitting != chosen or lacks_lines,
        offset=part.offset,
        next_offset=part.next_offset,
        size=part.size,
        returned_lines=len(fitting),
        matching_lines=part.matching,
        ends=tuple(_decode(each) for each in (*fitting[:1], *fitting[-1:])),
    )


class _Part(NamedTuple):
    """Lines that contain the wanted ones."""

    text: str
    offset: int
    next_offset: int
    size: int
    truncated: bool
    matching: int | None = None  #: With a filter: how many lines match.


def _read(orch: Orchestrator, agent_id: str, query: OutputQuery) -> _Part:
    if query.filter is None or query.offset is not None:
        text = _read_unfiltered(orch, agent_id, query)
        part = _Part(str(text), text.offset, text.next_offset, text.size, text.truncated)
        if query.filter is None:
            return part
        count, found = _matching(query.filter, io.BytesIO(text.encode()))
        return part._replace(text=found, matching=count)
    size = orch.read_output(agent_id, max_bytes=0).size
    with orch.open_output(agent_id) as log:
        count, found = _matching(query.filter, log)
    return _Part(found, 0, size, size, len(_split_lines(found)) < count, count)


def _read_unfiltered(orch: Orchestrator, agent_id: str, query: OutputQuery) -> AgentOutput:
    if query.offset is not None:
        return orch.read_output(agent_id, offset=query.offset, max_bytes=query.limit)
    if query.format == "text":
        limit = query.limit if query.response == "full" else _MOST_BYTES
        return orch.read_output(agent_id, tail=query.tail, max_bytes=limit)
    # Other lines lie between those of JSON: read further back until there are enough.
    size = max(query.limit, 4096)
    while True:
        part = orch.read_output(agent_id, max_bytes=min(size, _MOST_BYTES))
        lines = _of_format(_split_lines(part), query)
        is_enough = query.tail is not None and len(lines) >= query.tail
        is_full = sum(map(len, lines)) >= query.limit
        if is_enough or is_full or not part.truncated or size >= _MOST_BYTES:
            return part
        size *= 8


def _matching(pattern: str, log: BinaryIO) -> tuple[int, str]:
    """Return how many lines match, and the last of them."""
    try:
        matcher = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-I", "-S", "-c", _MATCHER, pattern, str(_MOST_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (ValueError, UnicodeError) as error:  # The pattern contains a NUL.
        raise InvalidInput(f"the filter is no pattern: {error}", hint=_HINT) from error
    stdin, matcher.stdin = matcher.stdin, None  # The feeder closes it.
    feeder = threading.Thread(target=_feed, args=(log, stdin), daemon=True)
    feeder.start()
    with matcher:
        try:
            out, err = matcher.communicate(timeout=_MATCH_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            matcher.kill()
            raise WaitTimeout(
                f"the filter {pattern!r:.80} was not matched within {_MATCH_TIMEOUT_S:g} s",
                hint="use a simpler pattern, or a page of the output: offset",
            ) from error
        finally:
            feeder.join()
    if matcher.returncode:
        why = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise InvalidInput(f"the filter {pattern!r:.80} is no pattern: {why}", hint=_HINT)
    count, _, lines = out.partition(b"\n")
    return int(count), lines.decode(errors="replace")


def _feed(log: BinaryIO, stdin: BinaryIO | Any) -> None:  # noqa: ANN401 - a pipe
    """Copy the log into the matcher, until it has gone."""
    try:
        with stdin:
            shutil.copyfileobj(log, stdin, 1 << 20)
    except BrokenPipeError:
        return


def _split_lines(text: str) -> list[str]:
    """Split at newlines only; str.splitlines splits at ten more, which JSON may contain."""
    return io.StringIO(text, newline="\n").readlines()


def _of_format(lines: list[str], query: OutputQuery) -> list[str]:
    if query.format == "text":
        return lines
    return [line for line in lines if _decode(line) is not _INVALID]


def _last(lines: list[str], count: int) -> list[str]:
    return lines[max(len(lines) - count, 0) :]


def _shorten(lines: list[str], query: OutputQuery) -> list[str]:
    """Return lines in which each long text is cut; a line of JSON remains one."""
    if query.response == "full":
        return lines
    _, length, items = _SHORTER[query.response]
    return [_shorten_line(line, length, items) for line in lines]


def _shorten_line(line: str, length: int, items: int) -> str:
    if len(line) <= length:
        return line
    value = _decode(line)
    if isinstance(value, dict | list):
        return json.dumps(_shorten_value(value, length, items), ensure_ascii=False) + "\n"
    return f"{line[:length]}…\n"


def _shorten_value(value: Any, length: int, items: int) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str) and len(value) > length:
        return f"{value[:length]}…"
    if isinstance(value, dict):
        return {name: _shorten_value(each, length, items) for name, each in value.items()}
    if isinstance(value, list):
        shown = [_shorten_value(each, length, items) for each in value[:items]]
        return [*shown, f"… {len(value) - items} more"] if len(value) > items else shown
    return value


def _within_bytes(lines: list[str], limit: int) -> list[str]:
    sizes = itertools.accumulate(len(line.encode()) for line in reversed(lines))
    return _last(lines, sum(size <= limit for size in sizes))


def _decode(line: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _INVALID


def count_lines(log: BinaryIO) -> int:
    """Return the number of lines in a file, the last one included that has no end."""
    count, last = 0, b"\n"
    while chunk := log.read(1 << 20):
        count, last = count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")
