"""The result that an agent's own output contains: :class:`AgentResult`."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class TokenUsage:
    """
    Token counts with one meaning for all tools.

    Input includes the tokens that were read from a cache or written to a cache, whether or
    not the tool counts them as input. The counts are those of the whole run with its
    subagents; Codex counts the whole thread, a resumed thread's earlier runs included.
    """

    input_tokens: int
    cached_input_tokens: int  #: The part of the input that was read from a cache.
    output_tokens: int


@attrs.frozen(kw_only=True)
class PermissionDenial:
    """A tool call that the agent's program refused, because no permission covered it."""

    tool: str  #: As the program names it: "Bash".
    input: dict[str, Any] = attrs.field(factory=dict)  #: The refused call's arguments.


@attrs.frozen(kw_only=True)
class AgentResult:
    """
    The result in an agent's own output. A field is None if the output does not contain it.

    A stream may have several results, for example if work in the background ends after the
    first one. The newest is the verdict; turns, durations and denials are those of all.
    """

    format: str | None = None  #: The preset whose stream it is; None for an unknown format.
    is_error: bool | None = None  #: None: the agent still works, or its stream has no end.
    result: str | None = None  #: The final answer, if the stream ends with success.
    error: str | None = None  #: The tool's own error message, or its last words.
    last_message: str | None = None  #: The agent's last message, with or without an end.
    session_id: str | None = None  #: For the preset's ``resume``.
    cost_usd: float | None = None
    usage: TokenUsage | None = None
    turns: int | None = None
    duration_ms: float | None = None
    permission_denials: tuple[PermissionDenial, ...] = attrs.field(default=(), converter=tuple)
    retry: str | None = None  #: The newest failed call that was repeated: "attempt 4 of 10, 401".

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-safe values."""
        return attrs.asdict(self)
