"""The two clocks: one for people to read, one to measure with."""

from __future__ import annotations

import functools
import time


def timestamp() -> str:
    """Return the time of day, with its zone, to the millisecond."""
    second, ns = divmod(time.time_ns(), 1_000_000_000)
    return f"{_to_the_second(second)}.{ns // 1_000_000:03d}+00:00"


@functools.lru_cache(maxsize=1)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def ms_since(start: float) -> float:
    """Return the milliseconds since *start*, a reading of ``time.monotonic()``."""
    return round((time.monotonic() - start) * 1000, 3)
