"""The names that retention recognizes: archived files, quarantined documents, temporary files."""

from __future__ import annotations

import re

_ID = r"([A-Za-z0-9][A-Za-z0-9_-]*)"
_NUMBER = r"(?:\.\d+)?"  # For a name that was taken: a_stream.1.jsonl.
_ARCHIVED = re.compile(
    rf"(?:{_ID}_(?:stream|progress|findings){_NUMBER}\.jsonl"
    rf"|deploy_{_ID}{_NUMBER}\.json"
    rf"|agent_prompt_{_ID}{_NUMBER}\.txt)(?:\.gz)?"
)
_DAMAGED_REGISTRY = re.compile(r"([A-Z]+_?[A-Z]*\.json)\.damaged-(\d{8}T\d{6})\.\d+Z")
_DAMAGED_JOURNAL = re.compile(r"(.+?)(?:\.jsonl)?(?:\.\d+)?\.damaged")
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


def agent_of(name: str) -> str | None:
    """Return the agent of an archived file's name; None if it is no such name."""
    found = _ARCHIVED.fullmatch(name)
    return None if found is None else next(filter(None, found.groups()))


def is_temporary(name: str) -> bool:
    """Return whether a writer uses such a name before the final one."""
    return _TEMPORARY.fullmatch(name) is not None


def registry_of(name: str) -> tuple[str, str] | None:
    """Return the document and the time (UTC) of a quarantined registry's name; None if not one."""
    found = _DAMAGED_REGISTRY.fullmatch(name)
    return None if found is None else (found[1], found[2])


def saga_of(name: str) -> str | None:
    """Return the saga of a quarantined journal's name; None if it is no such name."""
    found = _DAMAGED_JOURNAL.fullmatch(name)
    return None if found is None else found[1]
