"""
Read an agent's result from its log, if the log's lines are a tool's JSON lines.

A log may hold gigabytes, may grow during the read, and contains the lines of standard
error as well. The reader therefore starts at the end and stops as soon as the parser is
complete, at the latest after :data:`LOOK_BACK` bytes. It skips every line that is not an
event of the format. Memory use is bounded.

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
from orchestrator_core.presets.stream_parser import Event, StreamParser, parse_event
from orchestrator_core.system import durable
from orchestrator_core.system.gzip_read import GZ
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

LOOK_BACK = 16 << 20  #: The most bytes that are read from the end.
LOOK_AHEAD = 256 << 10  #: The bytes that are read from the start.
LONGEST = 4 << 20  #: A longer line is skipped.
_CHUNK = 64 << 10

_PARSERS: dict[str, type[StreamParser]] = {
    parser.format: parser for parser in (ClaudeStream, CodexStream, GeminiStream)
}


def read_stream(path: Path, format_: object = None) -> AgentResult:
    """
    Return the agent's result from the log at *path*.

    *format_* is the preset that wrote the log; without one, the format is recognized from
    the lines. If no line is of a known format, every field of the result is None.

    Raises:
        FileNotFoundError: There is no log, compressed or not.
        StorageError: The log cannot be read.
    """
    with open_log(path) as log:
        parser = _PARSERS.get(str(format_)) or _recognize(log)
        return AgentResult() if parser is None else _parse(parser(), log)


def _recognize(log: Log) -> type[StreamParser] | None:
    for event in _events(itertools.chain(log.first_lines(), log.newest_first())):
        for parser in _PARSERS.values():
            if parser.recognizes(event):
                return parser
    return None


def _parse(parser: StreamParser, log: Log) -> AgentResult:
    for event in filter(parser.recognizes, _events(log.newest_first())):
        parser.feed(event)
        if parser.is_complete:
            break
    for event in filter(parser.recognizes, _events(log.first_lines())):
        if "session_id" in parser.known:
            break
        parser.set_if_missing(session_id=event.text(parser.session_key))
    return parser.result()


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    return (event for line in lines if (event := parse_event(line)) is not None)


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

    def newest_first(self) -> Iterator[bytes]:
        """Yield lines from the end backwards. The newest may be torn: the agent may write now."""
        floor = max(self._tail_start, self._size - LOOK_BACK)
        line: bytes | None = b""  # The end of a line whose start is further back.
        for chunk in self._chunks(floor):
            *whole, last = reversed(chunk.split(b"\n"))
            for piece in whole:
                line = _prepend(piece, line)
                if line:
                    yield line
                line = b""
            line = _prepend(last, line)
        if floor == 0 and line:
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
