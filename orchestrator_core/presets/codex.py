"""
Codex, headless: its command line, and the stream of ``codex exec --json``.

Sources of the flags (read in October 2026):

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

In the stream a thread starts, a turn starts, items start and are completed, and the turn is
completed or fails. Sources: https://developers.openai.com/codex/noninteractive (as of
2026-05-14), docs/exec.md, and codex-rs/exec/src/exec_events.rs of github.com/openai/codex
at 08a1f30c. It contains token counts, but no cost and no duration. As recorded from Codex
0.171.0, the counts of a resumed thread include those of its earlier runs, and a failed call
that is repeated is an ``error`` that begins with "Reconnecting... 1/5".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, check_not_flag, flag
from orchestrator_core.presets.stream_parser import Event, StreamParser, retry_text, token_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES = frozenset(
    {
        *("thread.started", "turn.started", "turn.completed", "turn.failed"),
        *("item.started", "item.updated", "item.completed", "error"),
    }
)
_RETRY = re.compile(r"Reconnecting\.\.\. (\d+)/(\d+)(?: \((.*)\))?", re.DOTALL)
_HTTP_STATUS = re.compile(r"\bstatus (\d{3})\b")


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
    Return a spec for Codex: it reads the prompt from standard input and writes JSON lines.

    *sandbox* is ``read-only`` (Codex's default), ``workspace-write`` or
    ``danger-full-access``. Codex runs in Git repositories only, unless
    *skip_git_repo_check*. *resume* is a session's id. *arguments* follow ``exec``,
    verbatim: ``["--add-dir", "../lib", "-c", "model_reasoning_effort=high"]``.

    Raises:
        InvalidInput: A value is one that no agent can be run with.
    """
    command = (
        # --json ends the arguments: a list of files among them would else include the "-".
        *(program, "exec", *arguments, "--json"),
        *flag("--model", model),
        *flag("--sandbox", sandbox),
        *(("--skip-git-repo-check",) if skip_git_repo_check else ()),
        *(() if resume is None else ("resume", check_not_flag("resume", resume))),
        "-",
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="codex", **options)


class CodexStream(StreamParser):
    """The parser of Codex's events."""

    format = "codex"
    session_key = "thread_id"
    noise = ("WARNING: proceeding", "Reading prompt from stdin", "Reading additional input from")

    def __init__(self) -> None:
        super().__init__()
        self._turn_is_read = False  #: All further events are older than the last turn.

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format; Gemini's ``error`` has a timestamp."""
        return event["type"] in _TYPES and "timestamp" not in event

    def _feed(self, event: Event) -> None:
        if not self._turn_is_read:
            self._feed_turn(event)
        self.set_if_missing(retry=_retry(event))
        is_known = "last_message" in self.known and "is_error" in self.known
        self._turn_is_read = self._turn_is_read or event["type"] == "turn.started" or is_known
        self.is_complete = self._turn_is_read and "session_id" in self.known

    def _feed_turn(self, event: Event) -> None:
        kind = event["type"]
        if kind == "turn.completed":
            counts = event.mapping("usage")
            usage = token_usage(
                all_input=counts.integer("input_tokens"),
                cached=counts.integer("cached_input_tokens"),
                output=counts.integer("output_tokens"),
            )
            self.set_if_missing(is_error=False, usage=usage)
        elif kind == "turn.failed":
            error = event.mapping("error").text("message")
            self.set_if_missing(is_error=True, error=error)
        elif kind == "error" and not self.matched_any and _retry(event) is None:
            # Codex has recovered from an error that has an event after it.
            self.set_if_missing(is_error=True, error=event.text("message"))
        elif kind == "item.completed":
            self._feed_item(event.mapping("item"))

    def _feed_item(self, item: Event) -> None:
        if item.get("type") == "agent_message" and "last_message" not in self.known:
            message = item.text("text")
            self.set_if_missing(last_message=message)
            if self.known.get("is_error") is False:
                self.set_if_missing(result=message)


def _retry(event: Event) -> str | None:
    """Return the repeated call that an event reports."""
    match = _RETRY.fullmatch(event.text("message") or "") if event["type"] == "error" else None
    if match is None:
        return None
    attempt, limit, why = match.groups()
    status = _HTTP_STATUS.search(why or "")
    return retry_text(attempt, of=limit, why=status.group(1) if status else why)
