"""
Gemini CLI, headless: its command line, and its ``stream-json``.

Sources of the flags (read in October 2026), in github.com/google-gemini/gemini-cli:

- The prompt as ``--prompt``, or on standard input, which by itself makes it headless
  ("Non-TTY environment"), and ``--output-format stream-json``: docs/cli/headless.md at
  0e5aa965, also https://geminicli.com/docs/cli/headless. Gemini CLI 0.61.0 gives up on
  standard input after 500 ms without a byte, which a loaded machine exceeds: it then exits
  with status 42, "No input provided via stdin".
- ``--model``, ``--approval-mode`` and its four modes, ``--sandbox``, ``--resume``:
  docs/cli/cli-reference.md at 01ebea3b; ``--resume`` with a session's id:
  docs/cli/session-management.md at 1aa84971. ``--yolo`` is deprecated there.
- Gemini exits at once in a folder that is not trusted, where that feature is on; then
  ``--skip-trust`` is the remedy: docs/cli/trusted-folders.md at 2afe2c11.

The stream has ``init``, then ``message``, ``tool_use``, ``tool_result`` and ``error``, and
at last ``result``. A message of the model is in pieces, marked ``delta``. Sources:
https://geminicli.com/docs/cli/headless and, field by field,
packages/core/src/output/types.ts of the repository at 04fbf507. It contains token counts,
but no cost.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Unpack

from orchestrator_core.model.spec import AgentSpec, fits_argument
from orchestrator_core.presets.options import SpecOptions, flag
from orchestrator_core.presets.stream_parser import Event, StreamParser, retry_text, token_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.presets.result import AgentResult

_TYPES = frozenset({"init", "message", "tool_use", "tool_result", "error", "result"})
_RETRY = re.compile(r"Attempt (\d+) failed(?: with status (\d+))?")


def gemini(  # noqa: PLR0913 - each is an option of the tool
    *,
    prompt: str,
    type: str = "gemini",  # noqa: A002 - as AgentSpec calls it
    model: str | None = None,
    approval_mode: str | None = None,
    sandbox: bool = False,
    resume: str | None = None,
    stdin: bool = False,
    arguments: Iterable[str] = (),
    program: str = "gemini",
    **options: Unpack[SpecOptions],
) -> AgentSpec:
    """
    Return a spec for Gemini CLI: it gets the prompt as an argument and writes JSON lines.

    Every user of the machine can read an argument, with ``ps``. With *stdin*, the prompt is
    on standard input instead, for which Gemini CLI waits 500 ms only: started while the
    machine is busy, it can miss the prompt and fail. A prompt that is longer than an argument
    can be (128 KiB on Linux), or contains a NUL, is on standard input in any case.

    *approval_mode* is ``default``, ``auto_edit``, ``yolo`` or ``plan``. *resume* is a
    session's id, its number, or ``latest``. *arguments* follow last, verbatim:
    ``["--include-directories", "../lib"]``.

    Raises:
        InvalidInput: A value is one that no agent can be run with.
    """
    stdin = stdin or not fits_argument(f"--prompt={prompt}")
    command = (
        *(program, "--output-format", "stream-json"),
        # After a "=", no prompt is read as a flag.
        *(() if stdin else ("--prompt={prompt}",)),
        *flag("--model", model),
        *flag("--approval-mode", approval_mode),
        *(("--sandbox",) if sandbox else ()),
        *flag("--resume", resume),
        *arguments,
    )
    return AgentSpec(
        type=type, prompt=prompt, command=command, preset="gemini", stdin=stdin, **options
    )


class GeminiStream(StreamParser):
    """The parser of Gemini CLI's events."""

    format = "gemini"
    noise = (
        *("Warning: 256-color", "Ripgrep is not available", "YOLO mode is", "[STARTUP]"),
        *("Loaded cached credentials", "Update your environment and try again"),
    )
    exit_codes: ClassVar = {
        41: "it is not logged in",
        42: "it got no prompt, or an invalid argument",
        44: "its sandbox could not be used",
        52: "its configuration is invalid",
        53: "it reached its limit of turns",
        55: "the folder is not trusted",
    }

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []  #: The pieces of the last message, newest first.
        self._is_whole = False  #: The last message has no further pieces.

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format."""
        has_timestamp = event.text("timestamp") is not None
        # Other tools write results with a timestamp, but call the session's id "sessionId".
        return event["type"] in _TYPES and has_timestamp and "sessionId" not in event

    def _feed(self, event: Event) -> None:
        kind = event["type"]
        if kind == "result" and "is_error" not in self.known:
            self._feed_result(event)
        elif kind == "message" and event.get("role") == "assistant":
            self._feed_message(event)
        elif kind != "error":  # A warning may stand between two pieces.
            self._is_whole = bool(self._pieces)
        self.is_complete = kind == "init"

    def _retry_in(self, text: str) -> str | None:
        match = _RETRY.match(text)
        return None if match is None else retry_text(match.group(1), why=match.group(2))

    def _feed_message(self, event: Event) -> None:
        is_piece = event.get("delta") is True
        if not self._is_whole and (is_piece or not self._pieces):
            self._pieces.append(event.text("content") or "")
        self._is_whole = self._is_whole or not is_piece

    def _feed_result(self, event: Event) -> None:
        stats = event.mapping("stats")
        error = event.mapping("error")
        self.set_if_missing(
            is_error={"success": False, "error": True}.get(str(event.get("status"))),
            error=error.text("message") or error.text("type"),
            usage=token_usage(
                all_input=stats.integer("input_tokens"),
                cached=stats.integer("cached"),
                output=stats.integer("output_tokens"),
            ),
            duration_ms=stats.number("duration_ms"),
        )

    def result(self) -> AgentResult:
        """Return the result from all events so far."""
        message = "".join(reversed(self._pieces)) or None
        self.set_if_missing(last_message=message)
        if self.known.get("is_error") is False:
            self.set_if_missing(result=message)
        return super().result()
