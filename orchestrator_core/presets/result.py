"""The result that an agent's own output contains: :class:`AgentResult`."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class TokenUsage:
    """
    Token counts with one meaning for all tools.

    Input includes the tokens that were read from a cache or written to a cache, whether or
    not the tool counts them as input.
    """

    input_tokens: int
    cached_input_tokens: int  #: The part of the input that was read from a cache.
    output_tokens: int


@attrs.frozen(kw_only=True)
class AgentResult:
    """The result in an agent's own output. A field is None if the output does not contain it."""

    format: str | None = None  #: The preset whose stream it is; None for an unknown format.
    is_error: bool | None = None  #: None: the stream has no end.
    result: str | None = None  #: The final answer, if the stream has an end.
    error: str | None = None  #: The tool's own error message.
    last_message: str | None = None  #: The agent's last message, with or without an end.
    session_id: str | None = None  #: For the preset's ``resume``.
    cost_usd: float | None = None
    usage: TokenUsage | None = None
    turns: int | None = None
    duration_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-safe values."""
        return attrs.asdict(self)
