"""
An agent's output: a part of its log, read in bounded memory.

A log may hold gigabytes and may grow during the read. The last lines are found from the end,
in chunks. Only a newline ends a line; JSON may contain every other line separator. A log that
retention has compressed cannot be read from its end: it is unpacked once, chunk by chunk.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.gzip_read import GZ
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK = 64 << 10
_UTF8_LONGEST = 4  #: Bytes of a character.


class AgentOutput(str):  # noqa: SLOT000 - its attributes are set after its creation
    """
    A part of what an agent has written: a text that knows its place in the whole.

    Bytes that are not UTF-8 are U+FFFD in it.
    """

    offset: int = 0  #: The bytes before the part.
    next_offset: int = 0  #: Where the following part begins.
    size: int = 0  #: The bytes of the whole, when the part was read.
    truncated: bool = False  #: Whether *max_bytes* left out something that was asked for.

    @classmethod
    def of(cls, data: bytes, *, offset: int, size: int, truncated: bool) -> Self:
        """Return the part that consists of *data*."""
        output = cls(data.decode(errors="replace"))
        output.offset, output.next_offset = offset, offset + len(data)
        output.size, output.truncated = size, truncated
        return output


def check_range(tail: int | None, offset: int | None, max_bytes: int | None) -> None:
    """
    Return if the three describe a part.

    Raises:
        InvalidInput: One is negative or no integer, or *tail* and *offset* are both given.
    """
    given: dict[str, object] = {"tail": tail, "offset": offset, "max_bytes": max_bytes}
    for name, value in given.items():
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInput(f"{name} = {value!r:.80} is no integer", hint="leave it out for all")
        if value < 0:
            raise InvalidInput(f"{name} = {value} is less than 0", hint="leave it out for all")
    if tail is not None and offset is not None:
        raise InvalidInput("tail and offset are both given", hint="give one of them")


def open_log_file(path: Path) -> BinaryIO:
    """
    Open the log at *path* for reading, or its compressed version beside it.

    Raises:
        FileNotFoundError: There is neither.
        StorageError: It cannot be opened.
    """
    try:
        return os.fdopen(durable.open_private(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        packed = path.with_name(path.name + GZ)
        return cast(
            "BinaryIO", _Unpacked(os.fdopen(durable.open_private(packed, os.O_RDONLY), "rb"))
        )


class _Unpacked(gzip.GzipFile):
    """A compressed log; closing it closes the file as well."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._packed = file

    def close(self) -> None:
        super().close()
        self._packed.close()


def read_part(
    path: Path, *, tail: int | None, offset: int | None, max_bytes: int | None
) -> AgentOutput:
    """
    Return a part of the log at *path*: see :meth:`Orchestrator.read_output`.

    Raises:
        FileNotFoundError: There is no log, compressed or not.
        StorageError: It cannot be read, or its compressed version is damaged.
    """
    with open_log_file(path) as file, storage_errors("read", path):
        try:
            if offset is not None:
                return _read_forward(file, offset, max_bytes)
            if isinstance(file, gzip.GzipFile):
                return _read_last(*_unpacked_end(file, max_bytes), tail)
            size = os.fstat(file.fileno()).st_size
            floor = 0 if max_bytes is None else max(0, size - max_bytes)
            return _read_last(file, floor, 0, size, tail)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            damaged = path.with_name(path.name + GZ)
            raise StorageError(f"{damaged} is damaged: {error}", hint="try: gzip -dc") from error


# --- the last lines ------------------------------------------------------------------------------


def _unpacked_end(file: gzip.GzipFile, max_bytes: int | None) -> tuple[BinaryIO, int, int, int]:
    """Return the end of an unpacked log as a file, with the arguments of :func:`_read_last`."""
    kept, size = bytearray(), 0
    while chunk := file.read(_CHUNK):
        kept += chunk
        size += len(chunk)
        if max_bytes is not None and len(kept) > 2 * max_bytes + _CHUNK:
            del kept[: len(kept) - max_bytes - 1]
    start = size - len(kept)
    floor = 0 if max_bytes is None else max(0, size - max_bytes)
    return io.BytesIO(kept), floor, start, size


def _read_last(file: BinaryIO, floor: int, start: int, size: int, tail: int | None) -> AgentOutput:
    """
    Return the last lines: *tail* of them, or all, from the offset *floor* on.

    *start* is the offset in the log of the file's first byte.
    """

    def read(lo: int, hi: int) -> bytes:
        file.seek(lo - start)
        return file.read(hi - lo)

    begin, missing = (floor, 2) if tail is None else _begin_of_last(read, floor, size, tail)
    is_torn = begin > 0 and missing > 0 and read(begin - 1, begin) != b"\n"
    cut = begin > 0 and (missing > 1 or is_torn)
    data = read(begin, size)
    if is_torn:
        kept = data[data.find(b"\n") + 1 :] if b"\n" in data[:-1] else _without_torn_start(data)
        begin, data = begin + len(data) - len(kept), kept
    return AgentOutput.of(data, offset=begin, size=begin + len(data), truncated=cut)


def _begin_of_last(
    read: Callable[[int, int], bytes], floor: int, size: int, tail: int
) -> tuple[int, int]:
    """Return where the last *tail* lines begin, or else *floor*, and how many begins it lacks."""
    if tail == 0:
        return size, 0
    hi = size - 1  # A newline there ends the last line, and begins none.
    while hi > floor:
        lo = max(floor, hi - _CHUNK)
        chunk = read(lo, hi)
        found = chunk.count(b"\n")
        if found >= tail:
            index = len(chunk)
            for _ in range(tail):
                index = chunk.rindex(b"\n", 0, index)
            return lo + index + 1, 0
        tail -= found
        hi = lo
    return floor, tail


def _without_torn_start(data: bytes) -> bytes:
    """Return one long line without the rest of a character that begins before it."""
    for torn in range(min(_UTF8_LONGEST, len(data))):
        if data[torn] & 0xC0 != 0x80:  # noqa: PLR2004 - the mark of a character's later bytes
            return data[torn:]
    return data


# --- a page --------------------------------------------------------------------------------------


def _read_forward(file: BinaryIO, offset: int, max_bytes: int | None) -> AgentOutput:
    """Return whole lines from *offset* on; a part of a line only if it is longer than the page."""
    file.seek(offset)
    data = file.read(-1 if max_bytes is None else max_bytes)
    rest = file.read(1)
    if rest:
        newline = data.rfind(b"\n")
        data = data[: newline + 1] if newline >= 0 else _without_torn_end(data)
    size = _size(file)
    return AgentOutput.of(data, offset=min(offset, size), size=size, truncated=bool(rest))


def _without_torn_end(data: bytes) -> bytes:
    """Return a piece of a long line without the start of a character that ends after it."""
    for back in range(1, min(_UTF8_LONGEST, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0xC0:  # noqa: PLR2004 - the mark of a character's first byte
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)  # noqa: PLR2004 - as above
            return data[:-back] if length > back and len(data) > back else data
        if byte < 0x80:  # noqa: PLR2004 - ASCII
            break
    return data


def _size(file: BinaryIO) -> int:
    if not isinstance(file, gzip.GzipFile):
        return os.fstat(file.fileno()).st_size
    while file.read(_CHUNK):
        pass
    return file.tell()
