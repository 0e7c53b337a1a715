"""
Claude Code, headless: its command line, and its ``stream-json``.

Sources of the flags (read in October 2026):

- ``-p``, ``--output-format stream-json``, ``--verbose``, ``--model``,
  ``--permission-mode``, ``--resume``: https://code.claude.com/docs/en/cli-reference
  (before 2026 docs.claude.com/en/docs/claude-code/cli-reference, with the same flags).
- With ``-p``, ``stream-json`` is refused without ``--verbose``: "When using --print,
  --output-format=stream-json requires --verbose", as of Claude Code 2.1.59.
- The prompt on standard input: the same page's ``cat file | claude -p``, and the
  program itself: "Input must be provided either through stdin or as a prompt
  argument when using --print".
- The permission modes: https://code.claude.com/docs/en/permission-modes

The stream's lines are the messages of the Agent SDK: a ``system`` message of subtype
``init``, then ``assistant`` and ``user`` messages, and at last a ``result``. Sources:
https://code.claude.com/docs/en/agent-sdk/typescript#message-types and, field by field,
src/claude_agent_sdk/_internal/message_parser.py of
github.com/anthropics/claude-agent-sdk-python at 008e361d. Its input tokens do not include
the cache's: https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, flag
from orchestrator_core.presets.stream_parser import Event, StreamParser, token_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.presets.result import TokenUsage

_TYPES = frozenset({"system", "assistant", "user", "result", "stream_event"})


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
    Return a spec for Claude Code: it reads the prompt from standard input and writes JSON lines.

    *model* is an alias or a full name. *permission_mode* is ``default`` (``manual``),
    ``acceptEdits``, ``plan``, ``auto``, ``dontAsk``, ``bypassPermissions``, or another mode
    of the installed version. A headless Claude Code cannot ask: it denies what the mode
    would ask for. *resume* is a session's id or name. *arguments* follow last, verbatim:
    ``["--allowedTools", "Read", "Bash(git diff *)"]``.

    Raises:
        InvalidInput: A value is one that no agent can be run with.
    """
    command = (
        *(program, "-p", "--output-format", "stream-json", "--verbose"),
        *flag("--model", model),
        *flag("--permission-mode", permission_mode),
        *flag("--resume", resume),
        *arguments,
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="claude", **options)


class ClaudeStream(StreamParser):
    """The parser of Claude Code's events."""

    format = "claude"

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format."""
        return event["type"] in _TYPES and event.text("session_id") is not None

    def _feed(self, event: Event) -> None:
        kind = event["type"]
        if kind == "result" and "is_error" not in self.known:
            self._feed_result(event)
        elif kind == "assistant" and event.get("parent_tool_use_id") is None:
            # A message with a parent is a subagent's.
            self.set_if_missing(last_message=_message(event))
        is_init = kind == "system" and event.get("subtype") == "init"
        self.is_complete = is_init or "last_message" in self.known

    def _feed_result(self, event: Event) -> None:
        is_error = event.get("is_error")
        self.set_if_missing(
            is_error=is_error if isinstance(is_error, bool) else None,
            result=event.text("result"),
            error=_error(event) if is_error else None,
            cost_usd=event.number("total_cost_usd"),
            usage=_usage(event.mapping("usage")),
            turns=event.integer("num_turns"),
            duration_ms=event.number("duration_ms"),
        )


def _message(event: Event) -> str | None:
    content = event.mapping("message").sequence("content")
    blocks = [Event(block) for block in content if isinstance(block, dict)]
    texts = [block.text("text") for block in blocks if block.get("type") == "text"]
    return "".join(filter(None, texts)) or None


def _error(event: Event) -> str | None:
    errors = [error for error in event.sequence("errors") if isinstance(error, str)]
    return "; ".join(errors) or event.text("result") or event.text("subtype")


def _usage(counts: Event) -> TokenUsage | None:
    fresh = counts.integer("input_tokens")
    written = counts.integer("cache_creation_input_tokens")
    cached = counts.integer("cache_read_input_tokens")
    return token_usage(
        all_input=None if fresh is None else fresh + (written or 0) + (cached or 0),
        cached=cached,
        output=counts.integer("output_tokens"),
    )
