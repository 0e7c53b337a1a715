"""
A log's lines, newest first, and its first ones: in bounded memory, compressed or not.

A compressed log cannot be read from its end: it is unpacked from the start, and
no more than its two ends are kept.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections import deque
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable as _files
from orchestrator_core.system.gzip_read import GZ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOK_BACK = 16 << 20  #: Bytes that are read from the end, at most.
LOOK_AHEAD = 256 << 10  #: Bytes that are read from the start.
LONGEST = 4 << 20  #: A line that is longer is passed over.
_PIECE = 64 << 10


@attrs.frozen
class Log:
    """An open log, as it was when it was opened."""

    _read: Callable[[int, int], bytes]  #: (how many, from where)
    _size: int
    _first: int = 0  #: From where on there is something to read, besides the start.

    def first_lines(self) -> Iterator[bytes]:
        """Yield the first lines, oldest first; one that is cut off is none."""
        start = self._read(LOOK_AHEAD, 0)
        yield from start[: start.rfind(b"\n") + 1].split(b"\n")

    def newest_first(self) -> Iterator[bytes]:
        """Yield lines from the end backwards. The last may be torn: somebody writes it."""
        floor = max(self._first, self._size - LOOK_BACK)
        line = _Line()
        for piece in self._pieces(floor):
            first, *others = piece.split(b"\n")
            if others:
                *whole, last = others
                line.put_before(last)
                yield from line.taken()
                yield from (each for each in reversed(whole) if each)
            line.put_before(first)
        if floor == 0:
            yield from line.taken()

    def _pieces(self, floor: int) -> Iterator[bytes]:
        end = self._size
        while end > floor:
            start = max(floor, end - _PIECE)
            piece = self._read(end - start, start)
            if len(piece) < end - start:
                return  # Somebody has cut it meanwhile.
            yield piece
            end = start


@attrs.define
class _Line:
    """A line that is put together from its end, unless it gets too long."""

    _pieces: list[bytes] = attrs.field(factory=list)
    _length: int = 0

    def put_before(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length > LONGEST:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    def taken(self) -> Iterator[bytes]:
        """Yield the line, if it is one, and begin another."""
        line = b"".join(reversed(self._pieces))
        self._pieces, self._length = [], 0
        if line:
            yield line


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Log]:
    """
    Open a log that may have been compressed since its name was written down.

    Raises:
        FileNotFoundError: There is neither.
        StorageError: It cannot be read, or what was compressed is damaged.
    """
    try:
        fd = _files.open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        packed = path.with_name(path.name + GZ)
        yield _unpacked(packed, _files.open_private(packed, os.O_RDONLY))
        return
    try:
        with _files.refusals("read", path):
            yield Log(lambda count, place: os.pread(fd, count, place), os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _unpacked(path: Path, fd: int) -> Log:
    start, size = b"", 0
    pieces: deque[bytes] = deque()
    kept = 0
    try:
        with open(fd, "rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            while piece := unpacked.read(LOOK_AHEAD):
                start = start or piece
                size += len(piece)
                pieces.append(piece)
                kept += len(piece)
                while kept - len(pieces[0]) >= LOOK_BACK:
                    kept -= len(pieces.popleft())
    except (EOFError, OSError, zlib.error) as error:
        raise StorageError(f"{path} is damaged: {error}", hint="try: gzip -dc") from error
    tail, first = b"".join(pieces), size - kept

    def read(count: int, place: int) -> bytes:
        if place < first:
            return start[place : place + count]
        return tail[place - first : place - first + count]

    return Log(read, size, first)
