"""
Gemini CLI, headless.

Where its flags are from (read in October 2026), in github.com/google-gemini/gemini-cli:

- The prompt on standard input, which by itself makes it headless ("Non-TTY
  environment"), and ``--output-format stream-json``: docs/cli/headless.md at 0e5aa965,
  also https://geminicli.com/docs/cli/headless
- ``--model``, ``--approval-mode`` and its four modes, ``--sandbox``, ``--resume``:
  docs/cli/cli-reference.md at 01ebea3b; ``--resume`` with a session's id:
  docs/cli/session-management.md at 1aa84971. ``--yolo`` is deprecated there.
- A folder that is not trusted ends it at once, where that feature is on; then
  ``--skip-trust`` is the way: docs/cli/trusted-folders.md at 2afe2c11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, flag

if TYPE_CHECKING:
    from collections.abc import Iterable


def gemini(
    *,
    prompt: str,
    type: str = "gemini",  # noqa: A002 - as AgentSpec calls it
    model: str | None = None,
    approval_mode: str | None = None,
    sandbox: bool = False,
    resume: str | None = None,
    arguments: Iterable[str] = (),
    program: str = "gemini",
    **options: Unpack[SpecOptions],
) -> AgentSpec:
    """
    Return a spec for Gemini CLI: it reads the prompt from standard input, and writes JSON lines.

    *approval_mode* is ``default``, ``auto_edit``, ``yolo`` or ``plan``. *resume* is a
    session's id, its number, or ``latest``. *arguments* are put last, verbatim:
    ``["--include-directories", "../lib"]``.

    Raises:
        InvalidInput: A value that no agent could be run with.
    """
    command = (
        *(program, "--output-format", "stream-json"),
        *flag("--model", model),
        *flag("--approval-mode", approval_mode),
        *(("--sandbox",) if sandbox else ()),
        *flag("--resume", resume),
        *arguments,
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="gemini", **options)
