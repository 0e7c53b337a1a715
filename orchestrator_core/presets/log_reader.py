"""
Read an agent's result from its log, if the log's lines are a tool's JSON lines.

A log may hold gigabytes, may grow during the read, and contains the lines of standard
error as well. The reader therefore starts at the end and stops as soon as the parser is
complete, at the latest after :data:`LOOK_BACK` bytes. A line that is not an event of the
format counts only as a reason of a failure, if it is text. Memory use is bounded.

The log may be compressed (``NAME.gz``). gzip cannot be read backwards: the reader unpacks
the file from the start and keeps only the two ends.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import zlib
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.presets.claude import ClaudeStream
from orchestrator_core.presets.codex import CodexStream
from orchestrator_core.presets.gemini import GeminiStream
from orchestrator_core.presets.result import AgentResult
from orchestrator_core.presets.stream_parser import StreamParser, parse_events, parse_text
from orchestrator_core.system import durable
from orchestrator_core.system.gzip_read import GZ
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

LOOK_BACK = 16 << 20  #: The most bytes that are read from the end.
LOOK_AHEAD = 256 << 10  #: The bytes that are read from the start.
LONGEST = 4 << 20  #: A longer line is skipped.
_CHUNK = 64 << 10

_PARSERS: dict[str, type[StreamParser]] = {
    parser.format: parser for parser in (ClaudeStream, CodexStream, GeminiStream)
}


@attrs.frozen(kw_only=True)
class LogReading:
    """What a log says about its agent."""

    result: AgentResult
    last_text: str | None = None  #: The newest line of text that may explain a failure.
    lacks_result: bool = False  #: It is of the format, and certainly has no result at its end.
    exit_codes: Mapping[int, str] = {}  #: The meaning of exit statuses of this tool.

    def reason(self, exit_code: int | None = None) -> str:
        """Return why the agent failed: its error, its last line of text, or its exit status."""
        meaning = self.exit_codes.get(exit_code) if exit_code is not None else None
        return self.result.error or self.last_text or meaning or ""


def has_parser(format_: object) -> bool:
    """Return whether the output of a preset can be read."""
    return format_ in _PARSERS


def read_stream(path: Path, format_: object = None) -> AgentResult:
    """
    Return the agent's result from the log at *path*.

    *format_* is the preset that wrote the log; without one, the format is recognized from
    the lines. If no line is of a known format, every field of the result is None.

    Raises:
        FileNotFoundError: There is no log, compressed or not.
        StorageError: The log cannot be read.
    """
    return read_log(path, format_).result


def read_log(path: Path, format_: object = None) -> LogReading:
    """
    Return what the log at *path* says about its agent, as :func:`read_stream`.

    Raises:
        FileNotFoundError, StorageError: As :func:`read_stream`.
    """
    with open_log(path) as log:
        parser = _PARSERS.get(str(format_)) or _recognize(log)
        return LogReading(result=AgentResult()) if parser is None else _parse(parser(), log)


def _recognize(log: Log) -> type[StreamParser] | None:
    for line in itertools.chain(log.first_lines(), log.newest_first()):
        for event in parse_events(line or b""):
            for parser in _PARSERS.values():
                if parser.recognizes(event):
                    return parser
    return None


def _parse(parser: StreamParser, log: Log) -> LogReading:
    is_certain = True
    for line in log.newest_first():
        if parser.is_complete:
            break
        if line is None:  # It may be the result.
            is_certain = is_certain and "is_error" in parser.known
        elif line.startswith(b"{") and parser.can_skip(line):
            continue
        elif events := parse_events(line):
            for event in filter(parser.recognizes, reversed(events)):
                parser.feed(event)
        elif text := parse_text(line):
            parser.feed_text(text)
    _find_session(parser, log)
    result = parser.result()
    return LogReading(
        result=result,
        last_text=parser.last_text,
        lacks_result=is_certain and result.format is not None and result.is_error is None,
        exit_codes=parser.exit_codes,
    )


def _find_session(parser: StreamParser, log: Log) -> None:
    """Read the session's id from the start of the log, if its end does not have it."""
    for line in log.first_lines():
        if "session_id" in parser.known:
            return
        for event in filter(parser.recognizes, parse_events(line)):
            parser.set_if_missing(session_id=event.text(parser.session_key))


@attrs.frozen
class Log:
    """An open log. Bytes that are appended after the opening are not read."""

    _read: Callable[[int, int], bytes]  #: (count, offset)
    _size: int
    _tail_start: int = 0  #: Between the start and this offset nothing can be read.

    def first_lines(self) -> Iterator[bytes]:
        """Yield the complete lines at the start, oldest first."""
        start = self._read(LOOK_AHEAD, 0)
        yield from start[: start.rfind(b"\n") + 1].split(b"\n")

    def newest_first(self) -> Iterator[bytes | None]:
        """
        Yield lines from the end backwards; None for a line that is longer than :data:`LONGEST`.

        The newest may be torn: the agent may write now.
        """
        floor = max(self._tail_start, self._size - LOOK_BACK)
        line: bytes | None = b""  # The end of a line whose start is further back.
        for chunk in self._chunks(floor):
            *whole, last = reversed(chunk.split(b"\n"))
            for piece in whole:
                line = _prepend(piece, line)
                if line != b"":
                    yield line
                line = b""
            line = _prepend(last, line)
        if floor == 0 and line != b"":
            yield line

    def _chunks(self, floor: int) -> Iterator[bytes]:
        end = self._size
        while end > floor:
            start = max(floor, end - _CHUNK)
            chunk = self._read(end - start, start)
            if len(chunk) < end - start:
                return  # The log was truncated meanwhile.
            yield chunk
            end = start


def _prepend(piece: bytes, line: bytes | None) -> bytes | None:
    """Return a longer line; None if it is longer than :data:`LONGEST`, or was before."""
    return None if line is None or len(piece) + len(line) > LONGEST else piece + line


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """
    Open the log at *path*, or its compressed version beside it.

    Raises:
        FileNotFoundError: There is neither.
        StorageError: The log cannot be read, or the compressed version is damaged.
    """
    try:
        fd = durable.open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        packed = path.with_name(path.name + GZ)
        yield _unpacked(packed, durable.open_private(packed, os.O_RDONLY))
        return
    try:
        with storage_errors("read", path):
            yield Log(lambda count, offset: os.pread(fd, count, offset), os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _unpacked(path: Path, fd: int) -> Log:
    try:
        with open(fd, "rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            previous, last = b"", unpacked.read(LOOK_BACK)
            start, size = last[:LOOK_AHEAD], len(last)
            while chunk := unpacked.read(LOOK_BACK):
                previous, last = last, chunk
                size += len(chunk)
    except (EOFError, OSError, zlib.error) as error:
        raise StorageError(f"{path} is damaged: {error}", hint="try: gzip -dc") from error
    tail = previous + last
    tail_start = size - len(tail)

    def read(count: int, offset: int) -> bytes:
        if offset < tail_start:
            return start[offset : offset + count]
        return tail[offset - tail_start : offset - tail_start + count]

    return Log(read, size, tail_start)
