"""The programs that presets run: their names, and how they are installed."""

from __future__ import annotations

import attrs


@attrs.frozen
class Program:
    """The program of a preset."""

    name: str
    install: str  #: The command in the tool's own README.


PROGRAMS = {
    "claude": Program("claude", "npm install -g @anthropic-ai/claude-code"),
    "codex": Program("codex", "npm install -g @openai/codex"),
    "gemini": Program("gemini", "npm install -g @google/gemini-cli"),
}
"""The programs that a machine may lack, by preset. Every POSIX machine has ``sh``."""
