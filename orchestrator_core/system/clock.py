"""The two clocks: the time of day for people, and the monotonic clock for measurements."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time of day in UTC, to the millisecond, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)


def parse_timestamp(text: object) -> float | None:
    """
    Return a written time in seconds since 1970, or None if *text* is not an ISO 8601 time.

    A time without a zone is local time: the legacy system wrote such times.
    """
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
