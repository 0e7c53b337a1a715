"""
A shell script as an agent: the prompt is the script.

Source of ``sh FILE ARGUMENT…``: POSIX, IEEE Std 1003.1-2024, Shell & Utilities, "sh",
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
    Return a spec for a shell script: the *prompt* is the script.

    The shell reads the script from the prompt's file, so ``ps`` does not show it. Its
    standard input is empty. *arguments* are the script's ``$1``, ``$2``, …

    Raises:
        InvalidInput: A value is one that no agent can be run with.
    """
    command = (program, "{prompt_file}", *arguments)
    return AgentSpec(
        type=type, prompt=prompt, command=command, preset="shell", stdin=False, **options
    )
