"""The statuses of agents, and which of them are final."""

from __future__ import annotations

import enum

from orchestrator_core.exceptions import InvalidInput


class Status(enum.StrEnum):
    """An agent's status, as its record has it; equal to its text, and accepted in its place."""

    RUNNING = "running"
    WORKING = "working"
    BLOCKED = "blocked"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    TERMINATED = "terminated"

    @property
    def is_terminal(self) -> bool:
        """Whether the status is final."""
        return not TRANSITIONS[self]


ACTIVE = frozenset({Status.RUNNING, Status.WORKING, Status.BLOCKED})
TERMINAL = frozenset(Status) - ACTIVE

TRANSITIONS: dict[Status, frozenset[Status]] = {
    status: frozenset(Status) if status in ACTIVE else frozenset() for status in Status
}
"""What may follow each status: any status after an active one, none after a terminal one."""


def parse_status(value: str) -> Status:
    """
    Return the status with the name *value*.

    Raises:
        InvalidInput: No status has this name.
    """
    try:
        return Status(value)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        raise InvalidInput(f"{value!r} is no status", hint=f"use one of: {known}") from None


def known_status(value: str) -> str:
    """Return the Status of a text, or the text: the old system accepted any."""
    try:
        return Status(value)
    except ValueError:
        return value


def is_active(value: object) -> bool:
    """
    Return whether a record's status is active. The old system's statuses count, too.

    The old system accepted any text, so every value that is not known as final is active.
    """
    return not (isinstance(value, str) and value.lower() in _TERMINAL_VALUES)


#: With the old system's two final statuses, which this package never writes.
_TERMINAL_VALUES = {status.value for status in TERMINAL} | {"killed", "phase_completed"}
