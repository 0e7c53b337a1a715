"""Which files of an archive are ours to remove: those that are named as an end names them."""

from __future__ import annotations

import re

_ID = r"([A-Za-z0-9][A-Za-z0-9_-]*)"
_AGAIN = r"(?:\.\d+)?"  # The name was taken: a_stream.1.jsonl.
_ARCHIVED = re.compile(
    rf"(?:{_ID}_(?:stream|progress|findings){_AGAIN}\.jsonl"
    rf"|deploy_{_ID}{_AGAIN}\.json"
    rf"|agent_prompt_{_ID}{_AGAIN}\.txt)(?:\.gz)?"
)
_DAMAGED_REGISTRY = re.compile(r"([A-Z]+_?[A-Z]*\.json)\.damaged-(\d{8}T\d{6})\.\d+Z")
_DAMAGED_JOURNAL = re.compile(r"(.+?)(?:\.jsonl)?(?:\.\d+)?\.damaged")
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


def agent_of(name: str) -> str | None:
    """Return the agent whose archived file has that name; None if it is no such name."""
    found = _ARCHIVED.fullmatch(name)
    return None if found is None else next(filter(None, found.groups()))


def is_temporary(name: str) -> bool:
    """Tell whether it is what a writer makes before it gives a file its name."""
    return _TEMPORARY.fullmatch(name) is not None


def registry_of(name: str) -> tuple[str, str] | None:
    """Return which document was kept aside under that name, and when (UTC); None if none was."""
    found = _DAMAGED_REGISTRY.fullmatch(name)
    return None if found is None else (found[1], found[2])


def saga_of(name: str) -> str | None:
    """Return which saga's damaged journal was kept aside under that name; None if none was."""
    found = _DAMAGED_JOURNAL.fullmatch(name)
    return None if found is None else found[1]
