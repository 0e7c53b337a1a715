"""
Deadlines by the monotonic clock, which cannot be set.

An agent's supervisor enforces its deadline; a recovery or a sweep does so if the supervisor
has not. All use the machine's monotonic clock, so a change of the time of day neither
ends an agent early nor extends its life. The clock is valid for one boot, which no
agent outlives. The time of day of a deadline is for people, and for their records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator_core.system.boot import boot_id

if TYPE_CHECKING:
    from collections.abc import Mapping


def deadline_labels(deadline_s: float | None) -> dict[str, Any]:
    """Return the journal labels for the deadline of an agent that starts now."""
    if deadline_s is None:
        return {"deadline_at": None}
    return {
        "deadline_at": time.time() + deadline_s,
        "deadline_monotonic": time.monotonic() + deadline_s,
        "boot_id": boot_id(),
    }


def monotonic_deadline(labels: Mapping[str, Any]) -> float | None:
    """
    Return an agent's deadline by this boot's monotonic clock; None if it has none.

    Labels of another boot, or without a boot, fall back to the time of day.
    """
    deadline_at = labels.get("deadline_at")
    if deadline_at is None:
        return None
    if labels.get("boot_id") == boot_id():
        return float(labels["deadline_monotonic"])
    return time.monotonic() + float(deadline_at) - time.time()


def is_expired(labels: Mapping[str, Any]) -> bool:
    """Return whether an agent's deadline has passed."""
    deadline = monotonic_deadline(labels)
    return deadline is not None and time.monotonic() >= deadline
