"""
Streams: what an agent's log says of its result, if its lines are a tool's JSON lines.

A log may be gigabytes, be written this very moment, and hold lines of others, since
standard error goes there as well. So it is read from its end, no further than it has
to be and never further than :data:`~orchestrator_core.presets.streams.log.LOOK_BACK`; what is
no JSON object, or none of the format's, is passed over.

:mod:`.log` reads lines, newest first; :mod:`.claude`, :mod:`.codex` and :mod:`.gemini`
each know what one tool's lines mean; :mod:`.reading` puts them together.
"""

from __future__ import annotations

from orchestrator_core.presets.streams.reading import read_stream
from orchestrator_core.presets.streams.result import AgentResult, TokenUsage

__all__ = ["AgentResult", "TokenUsage", "read_stream"]
