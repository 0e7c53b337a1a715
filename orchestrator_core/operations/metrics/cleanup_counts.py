"""
What is counted of cleanups, and how: pure sums, the same over journals and over what is gone.

A tally takes the reports of unwindings one by one. Durations fall into buckets
that grow by a fixed factor, eight to each doubling: so percentiles of years fit
into a line, can be added to others, and are right to within five per cent.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.saga.step import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Unwind

CLEAN = "clean"  #: All was given back, and the end of every process was proved.
UNPROVEN = "unproven"  #: All was given back; that no process is left could not be proved.
ABANDONED = "abandoned"  #: An operator gave a step up: what it held may remain.
STUCK = "stuck"  #: A step could not be undone; it is tried again.
UNREADABLE = "unreadable"  #: The journal's last line does not tell.
OUTCOMES = (CLEAN, UNPROVEN, ABANDONED, STUCK, UNREADABLE)
SUCCESSES = frozenset({CLEAN, UNPROVEN})  #: Nothing is known to be left.

UNKNOWN = "unknown"  #: The reason of what is unreadable.

_LONGEST_REASON = 60
_PER_DOUBLING = 8
_LOWEST, _HIGHEST = -80, 320  #: A microsecond; 35 years.


def unwind_reason(why: Unwind) -> str:
    """Return why something was cleaned up: by whom or what it ended, ``rollback``, ``recovery``."""
    if why.reason is not Reason.TERMINAL:
        return str(why.reason.value)
    return str(why.detail.get("by") or why.reason.value)[:_LONGEST_REASON]


def unwind_outcome(report: UnwindReport) -> str:
    """Return what an unwinding came to, as one of :data:`OUTCOMES`."""
    if not report.closed:
        return STUCK
    if any(step.result == "abandoned" for step in report.steps):
        return ABANDONED
    if any(step.detail.get("proven") is False for step in report.steps):
        return UNPROVEN
    return CLEAN


@attrs.define
class Histogram:
    """Durations in milliseconds, in buckets of equal ratio."""

    buckets: dict[int, int] = attrs.field(factory=dict)  #: How many, by the number of the bucket.
    sum_ms: float = 0.0
    max_ms: float = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.buckets.values())

    def add(self, ms: float) -> None:
        """Take one more."""
        number = bucket_index(ms)
        self.buckets[number] = self.buckets.get(number, 0) + 1
        self.sum_ms = round(self.sum_ms + ms, 3)  # Whole microseconds, in whatever order.
        self.max_ms = max(self.max_ms, ms)

    def update(self, other: Histogram) -> None:
        """Take all of another."""
        for number, count in other.buckets.items():
            self.buckets[number] = self.buckets.get(number, 0) + count
        self.sum_ms = round(self.sum_ms + other.sum_ms, 3)
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile(self, share: float) -> float | None:
        """Return what *share* of them (0 to 1) do not exceed, to within 5 %; None of none."""
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for number in sorted(self.buckets):
            seen += self.buckets[number]
            if seen >= wanted:
                return round(min(_middle_of(number), self.max_ms), 3)
        return None

    def cumulative(self, doubling: int) -> int:
        """Return how many took up to 2 ** *doubling* milliseconds; it is a bucket's bound."""
        return sum(n for number, n in self.buckets.items() if number <= doubling * _PER_DOUBLING)


def bucket_index(ms: float) -> int:
    """Return the number of the bucket that a duration falls into."""
    if ms <= 0:
        return _LOWEST
    return min(max(math.ceil(math.log2(ms) * _PER_DOUBLING), _LOWEST), _HIGHEST)


def _middle_of(number: int) -> float:
    return float(2 ** ((number - 0.5) / _PER_DOUBLING))


@attrs.define
class CleanupCounts:
    """Cleanups, counted."""

    cleanups: Counter[tuple[str, str]] = attrs.field(factory=Counter)  #: By reason and outcome.
    bytes_freed: int = 0
    durations: Histogram = attrs.field(factory=Histogram)

    def add(self, report: UnwindReport) -> None:
        """Count one cleanup."""
        self.cleanups[unwind_reason(report.why), unwind_outcome(report)] += 1
        self.bytes_freed += sum(_bytes_in(step.detail) for step in report.steps)
        self.durations.add(report.duration_ms)

    def add_unreadable(self) -> None:
        """Count one cleanup of which nothing is known but that it was."""
        self.cleanups[UNKNOWN, UNREADABLE] += 1

    def update(self, other: CleanupCounts) -> None:
        """Count all that another has counted."""
        self.cleanups.update(other.cleanups)
        self.bytes_freed += other.bytes_freed
        self.durations.update(other.durations)


def _bytes_in(detail: Mapping[str, object]) -> int:
    freed = detail.get("bytes_freed")
    return freed if isinstance(freed, int) else 0
