"""
Checks of what is passed to file systems, to cgroups and to a terminal: ids, names, arguments.

A safe id consists of characters that have no meaning in file names, tmux targets and cgroup
directories. A terminal takes a few more names, and takes an argument vector without NULs.
"""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidId, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_LENGTH = 100
_SESSION_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SESSION_OWNER = re.compile(r"[A-Za-z0-9_.:-]{1,300}")


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


# --- what a terminal takes ------------------------------------------------------------------------


def check_name(name: str) -> str:
    """
    Return *name* if a terminal takes it literally.

    tmux executes ``#(...)`` in a name, and rewrites ``.``, ``:`` and newlines.

    Raises:
        InvalidId: The terminal would change or interpret it.
    """
    if not _SESSION_NAME.fullmatch(name):
        raise InvalidId(
            f"{name[:40]!r} cannot name a session", hint="use 1 to 200 of A-Z a-z 0-9 _ -"
        )
    return name


def check_owner(owner: str) -> str:
    """
    Return *owner* if the terminal's formats take it literally.

    Raises:
        InvalidInput: They would interpret it.
    """
    if not _SESSION_OWNER.fullmatch(owner):
        raise InvalidInput(
            f"{owner[:40]!r} cannot own a session", hint="use 1 to 300 of A-Z a-z 0-9 _ . : -"
        )
    return owner


def check_argv(argv: Sequence[str]) -> Sequence[str]:
    """
    Return *argv* if it names a program and can be passed to it.

    Raises:
        InvalidInput: It names no program, or an argument has a NUL.
    """
    if not argv or not argv[0]:
        raise InvalidInput("a session needs a program to run")
    if any("\0" in arg for arg in argv):
        raise InvalidInput("an argument has a NUL, which cannot be passed to a program")
    return argv
