"""The options that every preset takes, and how an option becomes arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class SpecOptions(TypedDict, total=False):
    """The options that a preset passes to :class:`~orchestrator_core.AgentSpec` unchanged."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str]
    parent: str | None
    deadline_s: float | None
    linger_s: float | None
    silent_after_s: float | None
    key: str | None


def flag(name: str, value: str | None) -> tuple[str, ...]:
    """
    Return a flag and its value; nothing for None.

    Raises:
        InvalidInput: The value is empty, or the program would read it as a flag.
    """
    return () if value is None else (name, check_not_flag(name, value))


def check_not_flag(name: str, value: str) -> str:
    """
    Return *value*, which its program cannot read as a flag.

    A caller that may choose a model's name, for example, cannot choose permissions with it.

    Raises:
        InvalidInput: The value is empty, or starts with a dash.
    """
    if not value or value.startswith("-"):
        raise InvalidInput(
            f"{name} cannot be {value!r:.80}: a value must not be empty or start with a dash",
            hint="pass flags that the preset does not know in its arguments, verbatim",
        )
    return value
