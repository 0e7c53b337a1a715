"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)
