"""
What can still be read of a damaged document.

Nothing here trusts the whole. A record stands on a line of its own, or on a few,
and is JSON by itself; one that is torn is read field by field. So a bad byte
costs the value it is in, and a file that was cut off costs what was cut off.

What is read was not checked by anything: whoever knows better, corrects it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestrator_core.exceptions import RegistryTooNew
from orchestrator_core.registry import fields
from orchestrator_core.registry.document import InvalidDocument, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator_core.registry.document import Document, Schema

Span: TypeAlias = tuple[int, int]

_JSON = json.JSONDecoder(strict=False)  # a raw control character costs no more than itself
_KEY = re.compile(r'"((?:[^"\\\n]|\\.)*)"\s*:\s*')
_LINE_KEY = re.compile(r'^([ \t]+)"((?:[^"\\\n]|\\.)*)"\s*:\s*', re.MULTILINE)
_RECORD_START = re.compile(r'(?=\{\s*"id"\s*:)')
_NEXT_LINE = re.compile(r'\n(?=[ \t]{2,}[{"\]}])')
_ONE_A_LINE = re.compile(r'^[ \t]*\{.*":.*":', re.MULTILINE)

_MARKS = ("type", "tmux_session", "status", "parent", "started_at", "tracked_files")
_MARKS_NEEDED = 2  #: Of these an object has, besides an id, if it is an agent's record.


def parse_what_is_left(data: bytes, schema: Schema) -> Document:
    """Return a document: all of it if it is whole, or what can be read of it, perhaps nothing."""
    try:
        return decode(data, schema)[0]
    except (InvalidDocument, RegistryTooNew):
        pass
    text, reader = data.decode("utf-8", "replace"), _Reader()
    document: Document = {
        name: value for name, value in _fields(text, reader) if name not in schema.entry_fields
    }
    for name, collection in schema.entry_fields.items():
        document[name] = (
            list(_records(text, reader)) if collection is list else _entries(text, name, reader)
        )
    for name in schema.count_fields:
        counts = document.get(name)
        document[name] = _counts(counts) if isinstance(counts, dict) else {}
    return document


def agent_of(record: dict[str, Any]) -> str | None:
    """Return the id of the agent whose record this is: its session's name has it, too."""
    named = record.get("id")
    if isinstance(named, str) and named:
        return named
    session = record.get("tmux_session")
    if isinstance(session, str) and session.startswith("agent_"):
        return session.removeprefix("agent_") or None
    return None


# --- the document's own fields ------------------------------------------------------------------


def _fields(text: str, reader: _Reader) -> Iterator[tuple[str, Any]]:
    lines = list(_LINE_KEY.finditer(text))
    if not lines:
        yield from _pairs(
            text[text.find("{") + 1 :], fields.TOP_LEVEL, reader
        )  # It is all on one line.
        return
    outermost = min(len(found[1].expandtabs()) for found in lines)
    own = [found for found in lines if len(found[1].expandtabs()) == outermost]
    if not {_meant(found[2], fields.TOP_LEVEL) for found in own} & fields.TOP_LEVEL:
        return  # These are the lines of something deeper; the document's own are lost.
    for found in own:
        value = reader.read(text, found.end())
        if value is not None:
            yield _meant(found[2], fields.TOP_LEVEL), value[0]


def _counts(counts: dict[str, Any]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if isinstance(n, int)}


# --- a task's records -----------------------------------------------------------------------------


def _records(text: str, reader: _Reader) -> Iterator[dict[str, Any]]:
    """Yield the records that can be read whole, and those that can in part, in their order."""
    is_flat = _ONE_A_LINE.search(text) is not None
    at = 0
    for (start, end), record in _whole_records(text, reader):
        yield from _torn_records(text[at:start], reader, is_flat=is_flat)
        yield _restored(record)
        at = end
    yield from _torn_records(text[at:], reader, is_flat=is_flat)


def _whole_records(text: str, reader: _Reader) -> Iterator[tuple[Span, dict[str, Any]]]:
    start = text.find("{")
    while start >= 0:
        found = reader.read(text, start)
        if found is not None and _is_record(found[0]):
            yield (start, found[1]), found[0]
            start = text.find("{", found[1])
        else:
            start = text.find("{", start + 1)


def _restored(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that could be read whole with the names that its fields had."""
    restored: dict[str, Any] = {}
    for name, value in record.items():
        meant = _meant(name, fields.RECORD)
        restored[name if meant in record else meant] = value
    return {**restored, "id": agent_of(restored)}


def _torn_records(gap: str, reader: _Reader, *, is_flat: bool) -> Iterator[dict[str, Any]]:
    """Yield what can be read of the records between two whole ones."""
    lines = _NEXT_LINE.split(gap) if is_flat else [gap]
    for piece in (piece for line in lines for piece in _RECORD_START.split(line)):
        record = {
            name: value
            for name, value in _pairs(piece, fields.RECORD, reader)
            if name not in fields.TOP_LEVEL
        }
        if _is_record(record):
            yield {**record, "id": agent_of(record)}


def _is_record(value: object) -> bool:
    return (
        isinstance(value, dict)
        and agent_of(value) is not None
        and sum(mark in value for mark in _MARKS) >= _MARKS_NEEDED
    )


def _pairs(text: str, known: frozenset[str], reader: _Reader) -> Iterator[tuple[str, Any]]:
    """
    Yield the names and values in *text* that can be read, each name once.

    After something that began as an object and cannot be read, how deep one is
    is not known any more: from there on, only *known* names are taken.
    """
    seen: set[str] = set()
    at, is_deep = 0, False
    while found := _KEY.search(text, at):
        name = _meant(found[1], known)
        value = reader.read(text, found.end())
        at = found.end() if value is None else value[1]
        if value is None:
            is_deep = is_deep or text[found.end() : found.end() + 1] in ("{", "[")
        elif name not in seen and (name in known or not is_deep):
            seen.add(name)
            yield name, value[0]


# --- the global registry's entries ----------------------------------------------------------------


def _entries(text: str, collection: str, reader: _Reader) -> dict[str, Any]:
    """Return the entries of one of the two collections, as far as each can be read whole."""
    is_wanted = {"tasks": _is_task, "agents": _is_agent}.get(collection, _is_nothing)
    found: dict[str, Any] = {}
    at = 0
    while key := _KEY.search(text, at):
        value = reader.read(text, key.end()) if text[key.end() : key.end() + 1] == "{" else None
        at = key.end()
        if value is not None and is_wanted(key[1], value[0]):
            found[key[1]], at = value
    return found


def _is_task(name: str, entry: dict[str, Any]) -> bool:
    return name.startswith("TASK-") and "description" in entry


def _is_agent(_name: str, entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("task_id"), str) and "tasks" not in entry


def _is_nothing(_name: str, _entry: dict[str, Any]) -> bool:
    return False


# --- reading --------------------------------------------------------------------------------------


class _Reader:
    """Reads values out of a text, as often in vain as a damaged document may need."""

    def __init__(self) -> None:
        self._patience = 5000

    def read(self, text: str, at: int) -> tuple[Any, int] | None:
        """Return the value that begins there, and where it ends; None if it cannot be read."""
        if self._patience <= 0:
            return None
        try:
            return _JSON.raw_decode(text, at)
        except ValueError:
            self._patience -= 1
        except RecursionError:  # It took long to find that out.
            self._patience -= 100
        return None


def _meant(name: str, known: Iterable[str]) -> str:
    """Return the known name that this was before one of its characters was damaged; or itself."""
    if name in known:
        return name
    near = [
        each
        for each in known
        if len(each) == len(name) and sum(a != b for a, b in zip(each, name, strict=True)) == 1
    ]
    return near[0] if len(near) == 1 else name
