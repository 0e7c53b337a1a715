"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    seconds, ms = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second(seconds)}.{ms:03}+00:00"


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)
