"""
Codex, headless.

Where its flags are from (read in October 2026):

- ``exec --json``, ``--sandbox`` and its three modes, ``--skip-git-repo-check``,
  ``resume``: https://developers.openai.com/codex/noninteractive (as of 2026-05-14) and
  docs/exec.md of github.com/openai/codex; flags stand before ``resume`` there.
- ``--model``, and ``-`` for a prompt on standard input:
  https://developers.openai.com/codex/cli/reference, and codex-rs/exec/src/cli.rs at
  02805335: "If not provided as an argument (or if `-` is used), instructions are read
  from stdin".

There is no flag for approvals: ``codex exec`` never asks, and refuses
``--ask-for-approval`` (github.com/openai/codex issue 13614). ``--full-auto`` is
deprecated there in favour of ``--sandbox workspace-write``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, flag, plain

if TYPE_CHECKING:
    from collections.abc import Iterable


def codex(
    *,
    prompt: str,
    type: str = "codex",  # noqa: A002 - as AgentSpec calls it
    model: str | None = None,
    sandbox: str | None = None,
    skip_git_repo_check: bool = False,
    resume: str | None = None,
    arguments: Iterable[str] = (),
    program: str = "codex",
    **options: Unpack[SpecOptions],
) -> AgentSpec:
    """
    Return a spec for Codex: it reads the prompt from standard input, and writes JSON lines.

    *sandbox* is ``read-only`` (its default), ``workspace-write`` or
    ``danger-full-access``. It runs in Git repositories only, unless
    *skip_git_repo_check*. *resume* is a session's id. *arguments* follow ``exec``,
    verbatim: ``["--add-dir", "../lib", "-c", "model_reasoning_effort=high"]``.

    Raises:
        InvalidInput: A value that no agent could be run with.
    """
    command = (
        # Whatever they are, --json ends them: a list of files would else go on to the "-".
        *(program, "exec", *arguments, "--json"),
        *flag("--model", model),
        *flag("--sandbox", sandbox),
        *(("--skip-git-repo-check",) if skip_git_repo_check else ()),
        *(() if resume is None else ("resume", plain("resume", resume))),
        "-",
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="codex", **options)
