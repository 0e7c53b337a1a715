"""
What a registry document is: its layout, its shape, its version.

A document is a plain dict. Fields that nobody here knows stay, in their order:
other tools write into the same files. The layout is for eyes and for ``grep``:
one top-level field a line, and below ``agents`` and ``tasks`` one entry a line.
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
    """A document cannot be used; says why. Stays inside this package."""


class Schema(NamedTuple):
    """One kind of document."""

    name: str  #: For messages: "task registry".
    entry_fields: Mapping[str, type[list[Any] | dict[str, Any]]]  #: Its fields of entries.
    derive: Callable[[Document], None]  #: Set every counter from what is counted. Idempotent.
    migrations: tuple[Callable[[Document], None], ...]
    """``migrations[n]`` turns version *n*, in place, into *n* + 1. No version is version 0."""
    count_fields: frozenset[str] = frozenset()  #: Its fields of counts that cannot be derived.

    @property
    def version(self) -> int:
        """The version that is written."""
        return len(self.migrations)


def encode(document: Document, schema: Schema) -> bytes:
    """
    Return a document as it is written.

    Raises:
        InvalidInput: It holds what JSON cannot.
    """
    try:
        # A field of entries stands for itself first: all others are encoded at once.
        fields = [{name: 0 if name in schema.entry_fields else document[name]} for name in document]
        lines = [b"  " + line[1:-1] for line in _lines(fields)]
        for place, name in enumerate(document):
            if name in schema.entry_fields:
                lines[place] = lines[place][:-1] + _entries(document[name])
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: not Unicode
        raise InvalidInput(f"{schema.name}: cannot be written as JSON: {error}") from error
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _line(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=0)


#: Stands between entries while they are encoded: all at once is five times as fast as
#: one by one. No document holds it, since it is new with every process.
_BETWEEN = os.urandom(16).hex()
_SEPARATOR = f', "{_BETWEEN}", '.encode()


def _entries(value: list[Any] | dict[str, Any]) -> bytes:
    if not value:
        return _line(value)
    if isinstance(value, dict):
        entries: list[Any] = [{name: entry} for name, entry in value.items()]
        lines = [line[1:-1] for line in _lines(entries)]
        return b"{\n    " + b",\n    ".join(lines) + b"\n  }"
    return b"[\n    " + b",\n    ".join(_lines(value)) + b"\n  ]"


def _lines(entries: list[Any]) -> list[bytes]:
    """Return each of *entries*, of which there is one at least, as a line of its own."""
    spread: list[Any] = [_BETWEEN] * (2 * len(entries) - 1)
    spread[::2] = entries
    return _line(spread)[1:-1].split(_SEPARATOR)


def decode(data: bytes, schema: Schema) -> tuple[Document, int]:
    """
    Return the document in its present version, and the version it was written in.

    Raises:
        Damage: It is none of this kind.
        RegistryTooNew: Its version is not known here.
    """
    document = _parse(data)
    if not isinstance(document, dict):
        raise InvalidDocument("it is not a JSON object")
    written = document.get("schema_version", 0)
    if not isinstance(written, int) or isinstance(written, bool) or written < 0:
        raise InvalidDocument("its schema_version is no version")
    if written > schema.version:
        raise RegistryTooNew(
            f"{schema.name} has schema version {written}, and {schema.version} is the newest "
            "known here"
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
    See that what is walked through can be walked through.

    Raises:
        Damage: It cannot.
    """
    for name, collection in schema.entry_fields.items():
        value = document.get(name)
        if not isinstance(value, collection):
            raise InvalidDocument(f"its {name!r} is not {_JSON_NAMES[collection]}")
        entries: Iterable[Any] = value.values() if isinstance(value, dict) else value
        if not set(map(type, entries)) <= {dict}:
            raise InvalidDocument(f"its {name!r} holds something that is no object")
    for name in schema.count_fields:
        tally = document.get(name)
        if not isinstance(tally, dict) or not all(isinstance(n, int) for n in tally.values()):
            raise InvalidDocument(f"its {name!r} is not an object of counts")


_JSON_NAMES: dict[type, str] = {list: "an array", dict: "an object"}


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
