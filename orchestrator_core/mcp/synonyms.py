"""
Words that agents use for a status or a severity, as the library names them.

Agents that worked with the system that this library replaces write statuses in any case, with
its additional statuses, and near words. An unknown word is passed on, and refused with the
list of the known ones.
"""

from __future__ import annotations

_STATUSES = {
    "running": "in_progress started starting active",
    "working": "reviewing investigating in_review progress busy ongoing",
    "blocked": "waiting paused stuck on_hold",
    "completed": "complete done finished success succeeded phase_completed ok",
    "failed": "failure fail unsuccessful",
    "error": "errored crashed exception",
    "terminated": "killed cancelled canceled aborted stopped",
}
_SEVERITIES = {
    "info": "information informational note none trivial",
    "low": "minor",
    "medium": "moderate normal warning warn",
    "high": "major error severe important",
    "critical": "blocker fatal urgent emergency",
}


def _by_word(table: dict[str, str]) -> dict[str, str]:
    words = {word: name for name, words in table.items() for word in words.split()}
    return words | {name: name for name in table}


_STATUS_BY_WORD = _by_word(_STATUSES)
_SEVERITY_BY_WORD = _by_word(_SEVERITIES)


def status_named(word: str) -> str:
    """Return the status that *word* means, or *word*."""
    return _STATUS_BY_WORD.get(_normal(word), word)


def severity_named(word: str) -> str:
    """Return the severity that *word* means, or *word*."""
    return _SEVERITY_BY_WORD.get(_normal(word), word)


def _normal(word: str) -> str:
    return word.strip().lower().replace(" ", "_").replace("-", "_")
