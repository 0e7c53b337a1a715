"""What an agent's stream says of its result: :class:`AgentResult`."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class TokenUsage:
    """
    Tokens, counted alike for all tools.

    What was read from a cache, or written to it, is part of the input, whether or not
    the tool counts it so.
    """

    input_tokens: int
    cached_input_tokens: int  #: Of these, read from a cache.
    output_tokens: int


@attrs.frozen(kw_only=True)
class AgentResult:
    """What an agent's own output says of its result; None is what it does not say."""

    format: str | None = None  #: Whose lines they are; None: nobody's that we know.
    is_error: bool | None = None  #: None: it has not come to its end, or never did.
    result: str | None = None  #: Its final answer, when it came to an end.
    error: str | None = None  #: What went wrong, in the tool's words.
    last_message: str | None = None  #: The last thing it said, with or without an end.
    session_id: str | None = None  #: For the preset's ``resume``.
    cost_usd: float | None = None
    usage: TokenUsage | None = None
    turns: int | None = None
    duration_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        return attrs.asdict(self)
