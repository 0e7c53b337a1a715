"""What all presets take, and how an option becomes arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class SpecOptions(TypedDict, total=False):
    """What a preset hands on to :class:`~orchestrator_core.AgentSpec` as it is."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str]
    parent: str | None
    deadline_s: float | None
    silent_after_s: float | None
    key: str | None


def flag(name: str, value: str | None) -> tuple[str, ...]:
    """
    Return a flag and its value; nothing for None.

    A value never is a flag itself: the model's name, say, may come from somebody
    who is not to choose the permissions.

    Raises:
        InvalidInput: It is empty, or would be read as a flag.
    """
    if value is None:
        return ()
    return name, plain(name, value)


def plain(name: str, value: str) -> str:
    """
    Return a value that its program cannot take for a flag.

    Raises:
        InvalidInput: It is empty, or begins with a dash.
    """
    if not value or value.startswith("-"):
        raise InvalidInput(
            f"{value!r:.80} is no value for {name}",
            hint="flags that the preset does not know go into its arguments, verbatim",
        )
    return value
