"""
Deadlines, by a clock that nobody can set.

An agent's supervisor keeps its deadline; who finds it late (a recovery, a sweep)
keeps it instead. They go by the machine's monotonic clock, as the supervisor
does: setting the time of day ends no agent early and grants none a year. An
agent does not outlive its machine's boot, so neither need the clock.

The time of day when a deadline passes is for people, and in their records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator_core.system.boot import boot_id

if TYPE_CHECKING:
    from collections.abc import Mapping


def deadline_labels(deadline_s: float | None) -> dict[str, Any]:
    """Return what the journal of an agent that begins now is to keep of its deadline."""
    if deadline_s is None:
        return {"deadline_at": None}
    return {
        "deadline_at": time.time() + deadline_s,
        "deadline_monotonic": time.monotonic() + deadline_s,
        "boot_id": boot_id(),
    }


def monotonic_deadline(labels: Mapping[str, Any]) -> float | None:
    """
    Return when, by our monotonic clock, an agent's deadline passes or has passed.

    None if it has none. What was begun in another boot is long dead, or was
    journalled without a clock: then the time of day has to do.
    """
    at = labels.get("deadline_at")
    if at is None:
        return None
    if labels.get("boot_id") == boot_id():
        return float(labels["deadline_monotonic"])
    return time.monotonic() + float(at) - time.time()


def is_expired(labels: Mapping[str, Any]) -> bool:
    """Tell whether an agent's deadline has passed."""
    at = monotonic_deadline(labels)
    return at is not None and time.monotonic() >= at
