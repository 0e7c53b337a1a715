"""
A shell script as an agent: its prompt is the script.

``sh FILE ARGUMENT…`` is as POSIX has it: IEEE Std 1003.1-2024, Shell & Utilities, "sh",
https://pubs.opengroup.org/onlinepubs/9799919799/utilities/sh.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.presets.options import SpecOptions


def shell(
    *,
    prompt: str,
    type: str = "shell",  # noqa: A002 - as AgentSpec calls it
    arguments: Iterable[str] = (),
    program: str = "sh",
    **options: Unpack[SpecOptions],
) -> AgentSpec:
    """
    Return a spec for a shell script, which is the *prompt*.

    The script is read from the prompt's file, so that ``ps`` does not show it; its
    standard input is empty. *arguments* are its ``$1``, ``$2``, …

    Raises:
        InvalidInput: A value that no agent could be run with.
    """
    command = (program, "{prompt_file}", *arguments)
    return AgentSpec(
        type=type, prompt=prompt, command=command, preset="shell", stdin=False, **options
    )
