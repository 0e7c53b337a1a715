"""
Parse what is left of a damaged document.

A record stands on one line, or on a few, and is JSON by itself. A record that is torn is
parsed field by field. So a bad byte costs the value that it is in, and a file that was
cut off costs what was cut off.

Nothing checks what is parsed here. A caller with a better source must prefer that one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import RegistryTooNew
from orchestrator_core.registry import fields
from orchestrator_core.registry.document import InvalidDocument, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.registry.document import Document, Schema

_JSON = json.JSONDecoder(strict=False)  # Accepts raw control characters.
_KEY = re.compile(r'"((?:[^"\\\n]|\\.)*)"\s*:\s*')
_LINE_KEY = re.compile(r'^([ \t]+)"((?:[^"\\\n]|\\.)*)"\s*:\s*', re.MULTILINE)
_RECORD_START = re.compile(r'(?=\{\s*"id"\s*:)')
_NEXT_LINE = re.compile(r'\n(?=[ \t]{2,}[{"\]}])')
_ONE_A_LINE = re.compile(r'^[ \t]*\{.*":.*":', re.MULTILINE)

#: An object with an id and at least two of these is an agent's record.
_RECORD_FIELDS = ("type", "tmux_session", "status", "parent", "started_at", "tracked_files")
_REQUIRED_FIELDS = 2

_ATTEMPTS = 5000  #: Failed attempts in one document. Without a limit, brackets could cost hours.
_RECURSION_COST = 100  #: Attempts that a RecursionError counts for, since it comes late.


def parse_what_is_left(data: bytes, schema: Schema) -> Document:
    """Return all of a document that can be parsed; at worst, empty entries and counts."""
    try:
        return decode(data, schema)[0]
    except (InvalidDocument, RegistryTooNew):
        pass
    text, reader = data.decode("utf-8", "replace"), _Reader()
    document: Document = {
        name: value for name, value in _own_fields(text, reader) if name not in schema.entry_fields
    }
    for name, collection in schema.entry_fields.items():
        document[name] = (
            list(_records(text, reader)) if collection is list else _entries(text, name, reader)
        )
    for name in schema.count_fields:
        counts = document.get(name)
        pairs = counts.items() if isinstance(counts, dict) else ()
        document[name] = {key: count for key, count in pairs if isinstance(count, int)}
    return document


def agent_of(record: dict[str, Any]) -> str | None:
    """Return the id of a record's agent, from its ``id`` or its session's name."""
    agent_id = record.get("id")
    if isinstance(agent_id, str) and agent_id:
        return agent_id
    session = record.get("tmux_session")
    if isinstance(session, str) and session.startswith("agent_"):
        return session.removeprefix("agent_") or None
    return None


# --- the document's own fields ------------------------------------------------------------------


def _own_fields(text: str, reader: _Reader) -> Iterator[tuple[str, Any]]:
    lines = list(_LINE_KEY.finditer(text))
    if not lines:  # The document is on one line.
        yield from _name_value_pairs(text[text.find("{") + 1 :], fields.TOP_LEVEL, reader)
        return
    outermost = min(len(line[1].expandtabs()) for line in lines)
    own = [
        (_closest_known_name(line[2], fields.TOP_LEVEL), line.end())
        for line in lines
        if len(line[1].expandtabs()) == outermost
    ]
    if not any(name in fields.TOP_LEVEL for name, _ in own):
        return  # These lines belong to something deeper; the document's own are lost.
    for name, at in own:
        value = reader.read(text, at)
        if value is not None:
            yield name, value[0]


# --- a task's records -----------------------------------------------------------------------------


def _records(text: str, reader: _Reader) -> Iterator[dict[str, Any]]:
    """Yield the records that can be parsed, whole or in part, in their order."""
    is_flat = _ONE_A_LINE.search(text) is not None
    at, start = 0, text.find("{")
    while start >= 0:
        value = reader.read(text, start)
        if value is None or not _is_record(value[0]):
            start = text.find("{", start + 1)
            continue
        yield from _partial_records(text[at:start], reader, is_flat=is_flat)
        yield _with_known_names(value[0])
        at = value[1]
        start = text.find("{", at)
    yield from _partial_records(text[at:], reader, is_flat=is_flat)


def _with_known_names(record: dict[str, Any]) -> dict[str, Any]:
    """Return a whole record with the names that its fields had."""
    restored: dict[str, Any] = {}
    for name, value in record.items():
        known = _closest_known_name(name, fields.RECORD)
        restored[name if known in record else known] = value
    return {**restored, "id": agent_of(restored)}


def _partial_records(gap: str, reader: _Reader, *, is_flat: bool) -> Iterator[dict[str, Any]]:
    """Yield what can be parsed of the records between two whole ones."""
    lines = _NEXT_LINE.split(gap) if is_flat else [gap]
    for piece in (piece for line in lines for piece in _RECORD_START.split(line)):
        record = {
            name: value
            for name, value in _name_value_pairs(piece, fields.RECORD, reader)
            if name not in fields.TOP_LEVEL
        }
        if _is_record(record):
            yield {**record, "id": agent_of(record)}


def _is_record(value: object) -> bool:
    return (
        isinstance(value, dict)
        and agent_of(value) is not None
        and sum(name in value for name in _RECORD_FIELDS) >= _REQUIRED_FIELDS
    )


def _name_value_pairs(
    text: str, known: frozenset[str], reader: _Reader
) -> Iterator[tuple[str, Any]]:
    """
    Yield the names and values in *text* that can be parsed, each name once.

    Inside an object or array that cannot be parsed, the depth is unknown. From there on,
    only *known* names count.
    """
    seen: set[str] = set()
    at, is_deep = 0, False
    while key := _KEY.search(text, at):
        name = _closest_known_name(key[1], known)
        value = reader.read(text, key.end())
        at = key.end() if value is None else value[1]
        if value is None:
            is_deep = is_deep or text.startswith(("{", "["), key.end())
        elif name not in seen and (name in known or not is_deep):
            seen.add(name)
            yield name, value[0]


# --- the global registry's entries ----------------------------------------------------------------


def _entries(text: str, field: str, reader: _Reader) -> dict[str, Any]:
    """Return the entries of ``tasks`` or ``agents`` that can be parsed whole."""
    entries: dict[str, Any] = {}
    at = 0
    while key := _KEY.search(text, at):
        value = reader.read(text, key.end()) if text.startswith("{", key.end()) else None
        at = key.end()
        if value is not None and _is_entry(field, key[1], value[0]):
            entries[key[1]], at = value
    return entries


def _is_entry(field: str, name: str, entry: dict[str, Any]) -> bool:
    if field == "tasks":
        return name.startswith("TASK-") and "description" in entry
    return isinstance(entry.get("task_id"), str) and "tasks" not in entry


# --- values ---------------------------------------------------------------------------------------


class _Reader:
    """Parses values out of one text, with a limit on failed attempts."""

    def __init__(self) -> None:
        self._attempts_left = _ATTEMPTS

    def read(self, text: str, at: int) -> tuple[Any, int] | None:
        """Return the value that begins at *at*, and where it ends; None if it cannot be parsed."""
        if self._attempts_left <= 0:
            return None
        try:
            return _JSON.raw_decode(text, at)
        except ValueError:
            self._attempts_left -= 1
        except RecursionError:
            self._attempts_left -= _RECURSION_COST
        return None


def _closest_known_name(name: str, known: frozenset[str]) -> str:
    """Return the only *known* name that differs by one character; else *name* itself."""
    if name in known:
        return name
    near = [
        each
        for each in known
        if len(each) == len(name) and sum(a != b for a, b in zip(each, name, strict=True)) == 1
    ]
    return near[0] if len(near) == 1 else name
