"""
Names that are safe in file names, tmux targets and cgroup directories.

A safe name consists of characters that have no meaning to any of the three.
"""

from __future__ import annotations

import re
import reprlib

from orchestrator_core.exceptions import InvalidId

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_LENGTH = 100


def check_id(kind: str, value: object, *, longest: int = _MAX_LENGTH) -> str:
    """
    Return *value* if it is safe as an id. *kind* names the use in the error.

    Raises:
        InvalidId: The value is not safe.
    """
    if isinstance(value, str) and is_id(value, longest=longest):
        return value
    raise InvalidId(
        f"{kind} {reprlib.repr(value)} is not an id",
        hint=f"use 1 to {longest} of A-Z a-z 0-9 _ - and start with a letter or digit",
    )


def is_id(value: object, *, longest: int = _MAX_LENGTH) -> bool:
    """Return whether *value* is a safe id of at most *longest* characters."""
    return isinstance(value, str) and len(value) <= longest and _SAFE.fullmatch(value) is not None
