"""
Presets: specs for the agents that people run, with the flags their makers document.

Each is a module with one function, which :class:`~orchestrator_core.AgentSpec` has
as well: ``AgentSpec.claude(prompt="…")``. Its docstring says which published page
each flag is from, and when that was read. A preset knows a command line and
nothing else: what it returns is a spec like any other.

:data:`PROGRAMS` is what the doctor looks for.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Program:
    """What a preset runs, and how one comes by it."""

    name: str
    install: str  #: From the tool's own README.


PROGRAMS = {
    "claude": Program("claude", "npm install -g @anthropic-ai/claude-code"),
    "codex": Program("codex", "npm install -g @openai/codex"),
    "gemini": Program("gemini", "npm install -g @google/gemini-cli"),
}
"""What presets run that a machine may lack. Every POSIX machine has ``sh``."""
