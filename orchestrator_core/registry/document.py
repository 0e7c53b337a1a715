"""
A registry document: its JSON layout, its shape, its version.

A document is a plain dict. Unknown fields stay, in their order, since other tools write
into the same files. The layout is for eyes and for ``grep``: one top-level field a line,
and below ``agents`` and ``tasks`` one entry a line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from orchestrator_core.exceptions import InvalidInput, RegistryTooNew

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Document: TypeAlias = dict[str, Any]


class InvalidDocument(Exception):
    """A document cannot be used; the message says why. It stays inside this package."""


class Schema(NamedTuple):
    """The schema of one kind of document."""

    name: str  #: For messages: "task registry".
    entry_fields: Mapping[str, type[list[Any] | dict[str, Any]]]  #: Fields that hold entries.
    derive: Callable[[Document], None]  #: Set every counter from the entries. Idempotent.
    migrations: tuple[Callable[[Document], None], ...]
    """``migrations[n]`` turns version *n*, in place, into *n* + 1. No version is version 0."""
    count_fields: frozenset[str] = frozenset()  #: Fields of counts that cannot be derived.

    @property
    def version(self) -> int:
        """The version that is written."""
        return len(self.migrations)


# --- writing ------------------------------------------------------------------------------------


def encode(document: Document, schema: Schema) -> bytes:
    """
    Return a document as it is written.

    Raises:
        InvalidInput: It has a value that JSON cannot hold.
    """
    try:
        # All other fields are encoded at once, with 0 in place of the fields of entries.
        fields = [{name: 0 if name in schema.entry_fields else document[name]} for name in document]
        lines = [b"  " + line[1:-1] for line in _lines(fields)]
        for index, name in enumerate(document):
            if name in schema.entry_fields:
                lines[index] = lines[index][:-1] + _entries(document[name])
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: not Unicode
        raise InvalidInput(f"{schema.name}: cannot be written as JSON: {error}") from error
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _entries(value: list[Any] | dict[str, Any]) -> bytes:
    if not value:
        return _line(value)
    if isinstance(value, list):
        return b"[\n    " + b",\n    ".join(_lines(value)) + b"\n  ]"
    lines = [line[1:-1] for line in _lines([{name: entry} for name, entry in value.items()])]
    return b"{\n    " + b",\n    ".join(lines) + b"\n  }"


#: Separates entries that are encoded at once, which is five times as fast as one by one.
#: It is new in every process, so no document contains it.
_SENTINEL = os.urandom(16).hex()
_SEPARATOR = f', "{_SENTINEL}", '.encode()


def _lines(entries: list[Any]) -> list[bytes]:
    """Return each of one or more *entries* on a line."""
    separated: list[Any] = [_SENTINEL] * (2 * len(entries) - 1)
    separated[::2] = entries
    return _line(separated)[1:-1].split(_SEPARATOR)


def _line(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=0)


# --- reading ------------------------------------------------------------------------------------


def decode(data: bytes, schema: Schema) -> tuple[Document, int]:
    """
    Return the document, migrated to the present version, and the version it was written in.

    Raises:
        InvalidDocument: It does not fit the schema.
        RegistryTooNew: Its version is newer than the schema's.
    """
    document = _parse(data)
    if not isinstance(document, dict):
        raise InvalidDocument("it is not a JSON object")
    written = document.get("schema_version", 0)
    if not isinstance(written, int) or isinstance(written, bool) or written < 0:
        raise InvalidDocument("its schema_version is no version")
    if written > schema.version:
        raise RegistryTooNew(
            f"{schema.name} has schema version {written}, "
            f"and {schema.version} is the newest known here"
        )
    if written == 0:
        for name, collection in schema.entry_fields.items():
            document.setdefault(name, collection())
        for name in schema.count_fields:
            document.setdefault(name, {})
    check(document, schema)
    for version in range(written, schema.version):
        schema.migrations[version](document)
        document["schema_version"] = version + 1
    return document, written


def check(document: Document, schema: Schema) -> None:
    """
    Check the types of all fields that hold entries or counts.

    Raises:
        InvalidDocument: One of them has another type.
    """
    for name, collection in schema.entry_fields.items():
        value = document.get(name)
        if not isinstance(value, collection):
            expected = "an array" if collection is list else "an object"
            raise InvalidDocument(f"its {name!r} is not {expected}")
        entries: Iterable[Any] = value.values() if isinstance(value, dict) else value
        if not set(map(type, entries)) <= {dict}:
            raise InvalidDocument(f"its {name!r} holds something that is no object")
    for name in schema.count_fields:
        counts = document.get(name)
        if not isinstance(counts, dict) or not all(isinstance(n, int) for n in counts.values()):
            raise InvalidDocument(f"its {name!r} is not an object of counts")


def _parse(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _parse_leniently(data, error)


def _parse_leniently(data: bytes, why: Exception) -> object:
    """Accept what Python's ``json`` writes beyond JSON: NaN, half a surrogate pair."""
    import json  # noqa: PLC0415 - for strange files only

    try:
        text = json.dumps(json.loads(data), ensure_ascii=False)
        return json.loads(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise InvalidDocument(str(why) or type(why).__name__) from why
