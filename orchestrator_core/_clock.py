"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_last = (0, "1970-01-01T00:00:00")  #: A second, and how it is written: many ask within one.


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    global _last  # noqa: PLW0603 - replaced whole, so that threads need no lock
    ms = time.time_ns() // 1_000_000
    seconds = ms // 1000
    known, text = _last
    if seconds != known:
        text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
        _last = (seconds, text)
    return f"{text}.{ms - seconds * 1000:03}+00:00"


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)
