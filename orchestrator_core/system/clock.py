"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import time
from datetime import UTC, datetime

#: A millisecond, its second, and how both are written: many ask within one of either.
_cache = (0, 0, "1970-01-01T00:00:00", "1970-01-01T00:00:00.000+00:00")


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    global _cache  # noqa: PLW0603 - replaced whole, so that threads need no lock
    ms = time.time_ns() // 1_000_000
    known_ms, known, text, whole = _cache
    if ms != known_ms:
        seconds = ms // 1000
        if seconds != known:
            text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
        whole = f"{text}.{ms - seconds * 1000:03}+00:00"
        _cache = (ms, seconds, text, whole)
    return whole


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
