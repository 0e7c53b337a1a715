"""
Claude Code, headless.

Where its flags are from (read in October 2026):

- ``-p``, ``--output-format stream-json``, ``--verbose``, ``--model``,
  ``--permission-mode``, ``--resume``: https://code.claude.com/docs/en/cli-reference
  (before 2026 docs.claude.com/en/docs/claude-code/cli-reference, with the same flags).
- With ``-p``, ``stream-json`` is refused without ``--verbose``: "When using --print,
  --output-format=stream-json requires --verbose", as of Claude Code 2.1.59.
- The prompt on standard input: the same page's ``cat file | claude -p``, and the
  program itself: "Input must be provided either through stdin or as a prompt
  argument when using --print".
- The permission modes: https://code.claude.com/docs/en/permission-modes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, flag

if TYPE_CHECKING:
    from collections.abc import Iterable


def claude(
    *,
    prompt: str,
    type: str = "claude",  # noqa: A002 - as AgentSpec calls it
    model: str | None = None,
    permission_mode: str | None = None,
    resume: str | None = None,
    arguments: Iterable[str] = (),
    program: str = "claude",
    **options: Unpack[SpecOptions],
) -> AgentSpec:
    """
    Return a spec for Claude Code: it reads the prompt from standard input, and writes JSON lines.

    *model* is an alias or a full name. *permission_mode* is ``default`` (``manual``),
    ``acceptEdits``, ``plan``, ``auto``, ``dontAsk`` or ``bypassPermissions``, and
    whatever else its version knows; nobody is there to be asked, so what a mode would
    ask for is denied. *resume* is a session's id or name. *arguments* are put last,
    verbatim: ``["--allowedTools", "Read", "Bash(git diff *)"]``.

    Raises:
        InvalidInput: A value that no agent could be run with.
    """
    command = (
        *(program, "-p", "--output-format", "stream-json", "--verbose"),
        *flag("--model", model),
        *flag("--permission-mode", permission_mode),
        *flag("--resume", resume),
        *arguments,
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="claude", **options)
