"""The statistics in Prometheus' text exposition format, version 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from orchestrator_core.operations.metrics.cleanup_counts import STUCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.operations.metrics import Stats

PREFIX = "orchestrator_core_"  #: Of every metric's name.
_DOUBLINGS = range(18)  #: The histogram's bounds: from a millisecond to two minutes.

METRICS = {
    "info": ("gauge", "Which root this is; always 1."),
    "agents_live": ("gauge", "Agents that are recorded as alive."),
    "sagas_open": ("gauge", "Sagas that are not closed, by state."),
    "cleanups_stuck": ("gauge", "Cleanups that are STUCK now, by reason."),
    "journals_unreadable": ("gauge", "Open sagas whose journal cannot be read."),
    "cleanups_total": ("counter", "Cleanups that are over, by reason and outcome."),
    "cleanup_success_ratio": (
        "gauge",
        "The share of all cleanups after which nothing is known to be left.",
    ),
    "cleanup_freed_bytes_total": ("counter", "Bytes that cleaning up has freed."),
    "cleanup_duration_seconds": ("histogram", "How long cleanups took."),
    "leftovers_found_total": ("counter", "What reaping sweeps have found, by kind."),
    "leftovers_reaped_total": ("counter", "What they have reaped of it, by kind."),
}
"""Every metric, without the prefix: its type, and its meaning."""


@attrs.frozen
class Sample:
    """One number of a metric."""

    value: float
    labels: dict[str, str] = attrs.field(factory=dict)
    suffix: str = ""  #: Of its name: a histogram has samples with three names.


def format_stats(stats: Stats) -> str:
    """Return the statistics in the exposition format."""
    samples = to_samples(stats)
    return "".join(
        line
        for name, (kind, meaning) in METRICS.items()
        for line in _format_family(f"{PREFIX}{name}", kind, meaning, samples[name])
    )


def to_samples(stats: Stats) -> dict[str, list[Sample]]:
    """Return the samples of every metric, by its name without the prefix, with the root's id."""
    return {
        name: [attrs.evolve(one, labels={"root": stats.root_id, **one.labels}) for one in samples]
        for name, samples in _samples(stats).items()
    }


def _samples(stats: Stats) -> dict[str, list[Sample]]:
    rows, leftovers = stats.cleanups, stats.leftovers
    live, ratio = stats.agents_live, stats.success_rate
    return {
        "info": [Sample(1, {"path": stats.root})],
        "agents_live": [] if live is None else [Sample(live)],
        "sagas_open": [Sample(n, {"state": state}) for state, n in stats.sagas.items()],
        "cleanups_stuck": [
            Sample(row.count, {"reason": row.reason}) for row in rows if row.outcome == STUCK
        ],
        "journals_unreadable": [Sample(len(stats.unreadable))],
        "cleanups_total": [
            Sample(row.count, {"reason": row.reason, "outcome": row.outcome})
            for row in rows
            if row.outcome != STUCK
        ],
        "cleanup_success_ratio": [] if ratio is None else [Sample(ratio)],
        "cleanup_freed_bytes_total": [Sample(stats.bytes_freed)],
        "cleanup_duration_seconds": _histogram(stats),
        "leftovers_found_total": [Sample(row.found, {"kind": row.kind}) for row in leftovers],
        "leftovers_reaped_total": [Sample(row.reaped, {"kind": row.kind}) for row in leftovers],
    }


def _histogram(stats: Stats) -> list[Sample]:
    times = stats.durations
    bounded = [
        Sample(times.cumulative(doubling), {"le": _format_number(2**doubling / 1000)}, "_bucket")
        for doubling in _DOUBLINGS
    ]
    return [
        *bounded,
        Sample(times.count, {"le": "+Inf"}, "_bucket"),
        Sample(round(times.sum_ms / 1000, 6), {}, "_sum"),
        Sample(times.count, {}, "_count"),
    ]


def _format_family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> Iterable[str]:
    yield f"# HELP {name} {_escape(meaning)}\n"
    yield f"# TYPE {name} {kind}\n"
    for sample in samples:
        labels = ",".join(f'{label}="{_quote(value)}"' for label, value in sample.labels.items())
        yield f"{name}{sample.suffix}{{{labels}}} {_format_number(sample.value)}\n"


def _format_number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quote(text: str) -> str:
    return _escape(text).replace('"', '\\"')
