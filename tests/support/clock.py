"""The resolution of the times in records: one millisecond."""

from __future__ import annotations

from datetime import UTC, datetime


def next_millisecond():
    """Return the time of day at the first reading in another millisecond."""
    begun = now = _now()
    while now == begun:
        now = _now()
    return now


def _now():
    return datetime.now(UTC).isoformat(timespec="milliseconds")
