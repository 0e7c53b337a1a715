"""
The lines of a journal: JSON objects, each with a checksum of the bytes before it.

- A torn last line is the normal end of a crash. It was never acknowledged, and does not count.
- A last line that lacks only its newline is complete, and counts.
- A line before the last whose checksum does not match is damage.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.system.surrogates import replace_surrogates

if TYPE_CHECKING:
    from collections.abc import Iterable

_END = b',"crc":"%08x"}'
_TAIL = len(_END % 0)
_JSON = msgspec.json.Encoder()
_OBJECT = msgspec.json.Decoder(dict[str, Any])


@attrs.define  # Not frozen, which takes three times as long to create. It is never changed.
class Entry:
    """One line of a journal: its kind, and its data in plain JSON values."""

    kind: str
    data: dict[str, Any]


def make_entry(kind: str, **data: Any) -> Entry:  # noqa: ANN401 - anything msgspec can write
    """Return an entry as a journal returns it: of plain JSON values."""
    return Entry(kind, msgspec.to_builtins(data, str_keys=True))


def encode(entries: Iterable[Entry], at: str) -> bytes:
    """
    Return the lines of *entries*, with the time *at*: kind first, checksum last.

    Raises:
        InvalidInput: A receipt has text that is not UTF-8, such as a path. It cannot be replaced.
    """
    lines = b""
    for entry in entries:
        document = {"kind": entry.kind, **entry.data, "at": at}
        try:
            body = _JSON.encode(document)[:-1]
        except UnicodeEncodeError:
            body = _JSON.encode(_in_utf8(entry, document))[:-1]
        lines += b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    return lines


def _in_utf8(entry: Entry, document: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return an entry's JSON object without surrogates, unless they are part of a receipt."""
    replaced = replace_surrogates(document)
    if replaced.get("receipt") != document.get("receipt"):
        raise InvalidInput(
            f"step {entry.data.get('step')!r} has text that is not UTF-8: "
            f"{document['receipt']!r:.200}",
            hint="use paths and names that are UTF-8 text",
        )
    return replaced


def decode(line: bytes) -> Entry:
    """
    Return the entry of a line, which comes without its newline.

    Raises:
        ValueError: The checksum does not match, or the line is no journal line.
    """
    body = line[:-_TAIL]
    if not line.endswith(_END % zlib.crc32(body)):
        raise ValueError("the checksum does not match")
    try:
        data = _OBJECT.decode(body + b"}")
        return Entry(str(data.pop("kind")), data)
    except (KeyError, msgspec.DecodeError) as error:
        raise ValueError(f"no journal line: {error!r}") from error


@attrs.frozen
class ParsedJournal:
    """The entries in the bytes of a journal, and the state of its end."""

    entries: tuple[Entry, ...] = ()
    length: int = 0  #: Bytes up to the end of the last line that counts.
    torn: bool = False  #: Whether more bytes follow, which do not count.
    missing_newline: bool = False  #: Whether the last line that counts lacks its newline.
    damaged: tuple[int, ...] = ()  #: Numbers of the damaged lines, from 1.


def parse(data: bytes) -> ParsedJournal:
    """Parse the bytes of a journal."""
    entries: list[Entry] = []
    damaged: list[int] = []
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entries.append(decode(line))
        except ValueError:
            damaged.append(number)
    whole = b""
    for line in (rest, rest[:-1]):  # The newline of the last line may be missing, or wrong.
        with contextlib.suppress(ValueError):
            entries.append(decode(line))
            whole = line
            break
    length = len(data) - len(rest) + len(whole)
    return ParsedJournal(tuple(entries), length, length < len(data), bool(whole), tuple(damaged))
