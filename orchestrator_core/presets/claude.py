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
- The permission modes: https://code.claude.com/docs/en/permission-modes. Claude Code 2.1.197
  itself: "--dangerously-skip-permissions cannot be used with root/sudo privileges for security
  reasons", unless ``IS_SANDBOX=1``.

The stream's lines are the messages of the Agent SDK: a ``system`` message of subtype
``init``, then ``assistant`` and ``user`` messages, and at last a ``result``. Sources:
https://code.claude.com/docs/en/agent-sdk/typescript#message-types and, field by field,
src/claude_agent_sdk/_internal/message_parser.py of
github.com/anthropics/claude-agent-sdk-python at 008e361d. Its input tokens do not include
the cache's: https://platform.claude.com/docs/en/build-with-claude/prompt-caching

As recorded from Claude Code 2.1.197: when work in the background ends after a ``result``,
another ``init`` and another ``result`` follow. ``total_cost_usd`` and ``modelUsage`` are then
those of the whole run; ``num_turns``, ``duration_ms`` and ``usage`` are those since the result
before. ``usage`` leaves out subagents. A failed call that is repeated is a ``system`` message
of subtype ``api_retry``. With ``--output-format json`` the whole stream is one array.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.spec import AgentSpec
from orchestrator_core.presets.options import SpecOptions, flag
from orchestrator_core.presets.result import AgentResult, PermissionDenial, TokenUsage
from orchestrator_core.presets.stream_parser import Event, StreamParser, retry_text, token_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        InvalidInput: No agent can be run with a value, or this process is root's,
            to whom Claude Code refuses ``bypassPermissions``.
    """
    arguments = tuple(arguments)
    if permission_mode == "bypassPermissions" or _BYPASSES & set(arguments):
        _refuse_root(options.get("env") or {})
    command = (
        *(program, "-p", "--output-format", "stream-json", "--verbose"),
        *flag("--model", model),
        *flag("--permission-mode", permission_mode),
        *flag("--resume", resume),
        *arguments,
    )
    return AgentSpec(type=type, prompt=prompt, command=command, preset="claude", **options)


_BYPASSES = {
    *("--dangerously-skip-permissions", "--permission-mode=bypassPermissions"),
    "bypassPermissions",
}


def _refuse_root(env: Mapping[str, str]) -> None:
    """Refuse what Claude Code refuses to root, outside of what it takes for a sandbox."""
    is_sandbox = env.get("IS_SANDBOX", os.environ.get("IS_SANDBOX")) == "1"
    if os.getuid() == 0 and not is_sandbox:
        raise InvalidInput(
            "Claude Code refuses the permission mode bypassPermissions to root",
            hint="deploy as another user; in a container that confines the agent, and only "
            "there, set IS_SANDBOX=1 in its env",
        )


class ClaudeStream(StreamParser):
    """The parser of Claude Code's events."""

    format = "claude"

    def __init__(self) -> None:
        super().__init__()
        self._goes_on = False  #: A turn is newer than the newest result.
        self._summed_usage: TokenUsage | None = None  #: Of all results; without the subagents.
        self._denials: dict[str, PermissionDenial] = {}  #: By the id of the call, newest first.

    @classmethod
    def recognizes(cls, event: Event) -> bool:
        """Return whether an event is of this format."""
        return event["type"] in _TYPES and event.text("session_id") is not None

    def can_skip(self, line: bytes) -> bool:
        """Skip the messages before the last one: only results and retries count there."""
        is_settled = self._goes_on and "last_message" in self.known
        return is_settled and b'"result"' not in line and b'"api_retry"' not in line

    def _feed(self, event: Event) -> None:
        kind, subtype = event["type"], event.get("subtype")
        if kind == "result":
            self._feed_result(event)
        elif subtype == "api_retry":
            why = event.integer("error_status") or event.text("error")
            attempt, limit = event.integer("attempt"), event.integer("max_retries")
            self.set_if_missing(retry=retry_text(attempt, of=limit, why=why))
        elif kind != "system" or subtype == "init":
            # Other system messages may follow the last result, as the notice of a task's end.
            self._goes_on = True
        if kind == "assistant" and event.get("parent_tool_use_id") is None:
            # A message with a parent is a subagent's.
            self.set_if_missing(last_message=_message(event))

    def _feed_result(self, event: Event) -> None:
        if not self._goes_on:
            self._feed_verdict(event)
        self._goes_on = True  # An older result is no verdict.
        self.set_if_missing(cost_usd=event.number("total_cost_usd"), usage=_usage_by_model(event))
        self._summed_usage = _sum(self._summed_usage, _usage(event.mapping("usage")))
        for name, value in (
            ("turns", event.integer("num_turns")),
            ("duration_ms", event.number("duration_ms")),
        ):
            if value is not None:
                self.known[name] = self.known.get(name, 0) + value
        for denial in reversed(event.sequence("permission_denials")):
            self._feed_denial(Event(denial if isinstance(denial, dict) else {}))

    def _feed_verdict(self, event: Event) -> None:
        is_error = event.get("is_error")
        self.set_if_missing(
            is_error=is_error if isinstance(is_error, bool) else None,
            result=None if is_error else event.text("result"),
            error=_error(event) if is_error else None,
        )

    def _feed_denial(self, denial: Event) -> None:
        tool = denial.text("tool_name")
        call = denial.text("tool_use_id") or f"without an id: {len(self._denials)}"
        if tool is not None:
            arguments = dict(denial.mapping("tool_input"))
            self._denials.setdefault(call, PermissionDenial(tool=tool, input=arguments))

    def result(self) -> AgentResult:
        """Return the result from all events so far."""
        self.set_if_missing(usage=self._summed_usage)
        self.known["permission_denials"] = tuple(reversed(self._denials.values()))
        return super().result()


def _message(event: Event) -> str | None:
    content = event.mapping("message").sequence("content")
    blocks = [Event(block) for block in content if isinstance(block, dict)]
    texts = [block.text("text") for block in blocks if block.get("type") == "text"]
    return "".join(filter(None, texts)) or None


def _error(event: Event) -> str | None:
    errors = [error for error in event.sequence("errors") if isinstance(error, str)]
    return "; ".join(errors) or event.text("result") or event.text("subtype")


_OF_RESULT = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    "output_tokens",
)
_OF_MODEL = ("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens", "outputTokens")


def _usage(counts: Event, names: tuple[str, ...] = _OF_RESULT) -> TokenUsage | None:
    fresh, written, cached, output = map(counts.integer, names)
    all_input = None if fresh is None else fresh + (written or 0) + (cached or 0)
    return token_usage(all_input=all_input, cached=cached, output=output)


def _usage_by_model(event: Event) -> TokenUsage | None:
    """Return the sum over all models, subagents included; None if there is no such count."""
    total: TokenUsage | None = None
    models = event.mapping("modelUsage")
    for name in models:
        total = _sum(total, _usage(models.mapping(name), _OF_MODEL))
    return total


def _sum(one: TokenUsage | None, other: TokenUsage | None) -> TokenUsage | None:
    if one is None or other is None:
        return one or other
    return TokenUsage(
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
    )
