"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    return _written(time.time_ns() // 1_000_000)


@functools.lru_cache(maxsize=1)
def _written(ms: int) -> str:
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds")


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)
