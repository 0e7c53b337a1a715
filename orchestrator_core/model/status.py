"""What an agent's record says that it is up to, and which of that is an end."""

from __future__ import annotations

import enum

from orchestrator_core.exceptions import InvalidInput


class Status(enum.Enum):
    """What an agent is up to, in its record."""

    RUNNING = "running"
    WORKING = "working"
    BLOCKED = "blocked"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    TERMINATED = "terminated"

    @property
    def is_terminal(self) -> bool:
        """Whether its life is over."""
        return not TRANSITIONS[self]


ACTIVE = frozenset({Status.RUNNING, Status.WORKING, Status.BLOCKED})
TERMINAL = frozenset(Status) - ACTIVE

TRANSITIONS: dict[Status, frozenset[Status]] = {
    status: frozenset(Status) if status in ACTIVE else frozenset() for status in Status
}
"""What may follow each status: anything an active one, nothing a terminal one."""


def parse_status(value: str) -> Status:
    """
    Return the status called *value*.

    Raises:
        InvalidInput: There is none.
    """
    try:
        return Status(value)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        raise InvalidInput(f"{value!r} is no status", hint=f"use one of: {known}") from None


def is_active(value: object) -> bool:
    """
    Tell whether a record's status, ours or the old system's, is one of the living.

    The old system took any text for one; what is not known to be an end is none.
    """
    return not (isinstance(value, str) and value.lower() in _TERMINAL_VALUES)


#: The old system's terminal statuses among them: `orchestrator_core` never writes those two.
_TERMINAL_VALUES = {status.value for status in TERMINAL} | {"killed", "phase_completed"}
