"""
Counts of cleanups, by reason and outcome, with a histogram of durations.

The counts take one unwind report at a time. The buckets of the histogram grow by a fixed
factor, eight for each doubling. So years of durations take one line, and percentiles are
correct to within 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.saga.step import Reason

if TYPE_CHECKING:
    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Unwind

CLEAN = "clean"  #: All is released, and the end of every process was proved.
UNPROVEN = "unproven"  #: All is released; that no process is left could not be proved.
ABANDONED = "abandoned"  #: An operator abandoned a step: its resource may remain.
STUCK = "stuck"  #: A step could not be undone; it is tried again.
UNREADABLE = "unreadable"  #: The journal's last line has no report.
OUTCOMES = (CLEAN, UNPROVEN, ABANDONED, STUCK, UNREADABLE)
SUCCESSES = frozenset({CLEAN, UNPROVEN})  #: Nothing is known to be left.

UNKNOWN = "unknown"  #: The reason of an unreadable journal.

_MAX_REASON = 60  #: Characters.
_PER_DOUBLING = 8
_LOWEST, _HIGHEST = -80, 320  #: Buckets: a microsecond; 35 years.


def unwind_reason(why: Unwind) -> str:
    """Return the cause of a cleanup: what ended the agent, ``rollback`` or ``recovery``."""
    if why.reason is not Reason.TERMINAL:
        return str(why.reason.value)
    return str(why.detail.get("by") or why.reason.value)[:_MAX_REASON]


def unwind_outcome(report: UnwindReport) -> str:
    """Return the result of an unwinding, as one of :data:`OUTCOMES`."""
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

    buckets: dict[int, int] = attrs.field(factory=dict)  #: Counts, by the number of the bucket.
    sum_ms: float = 0.0
    max_ms: float = 0.0

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets.values())

    def add(self, ms: float) -> None:
        """Count one duration."""
        number = bucket_index(ms)
        self.buckets[number] = self.buckets.get(number, 0) + 1
        self.sum_ms = round(self.sum_ms + ms, 3)  # Microseconds, so that the order is irrelevant.
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, share: float) -> float | None:
        """Return what *share* (0 to 1) of the durations do not exceed, to 5 %; None of none."""
        wanted = max(1, math.ceil(share * self.count))
        for number in sorted(self.buckets):
            wanted -= self.buckets[number]
            if wanted <= 0:
                return round(min(_bucket_midpoint(number), self.max_ms), 3)
        return None

    def cumulative(self, doubling: int) -> int:
        """Return how many durations are at most 2 ** *doubling* ms, a bound of a bucket."""
        return sum(n for number, n in self.buckets.items() if number <= doubling * _PER_DOUBLING)


def bucket_index(ms: float) -> int:
    """Return the number of a duration's bucket."""
    if ms <= 0:
        return _LOWEST
    return min(max(math.ceil(math.log2(ms) * _PER_DOUBLING), _LOWEST), _HIGHEST)


def _bucket_midpoint(number: int) -> float:
    return float(2 ** ((number - 0.5) / _PER_DOUBLING))


@attrs.define
class CleanupCounts:
    """The counts of some cleanups."""

    cleanups: Counter[tuple[str, str]] = attrs.field(factory=Counter)  #: By reason and outcome.
    bytes_freed: int = 0
    durations: Histogram = attrs.field(factory=Histogram)

    def add(self, report: UnwindReport) -> None:
        """Count one cleanup."""
        self.cleanups[unwind_reason(report.why), unwind_outcome(report)] += 1
        freed = (step.detail.get("bytes_freed") for step in report.steps)
        self.bytes_freed += sum(size for size in freed if isinstance(size, int))
        self.durations.add(report.duration_ms)

    def add_unreadable(self) -> None:
        """Count one cleanup without a readable report."""
        self.cleanups[UNKNOWN, UNREADABLE] += 1
