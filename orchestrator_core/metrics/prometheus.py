"""The statistics as Prometheus reads them: its text exposition format, version 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from orchestrator_core.metrics.tally import STUCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.metrics import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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
"""Every metric, without the prefix: its type, and what it means."""


@attrs.frozen
class _Sample:
    value: float
    labels: dict[str, str] = attrs.field(factory=dict)
    suffix: str = ""


def exposition(stats: Stats) -> str:
    """Return the statistics in the exposition format. Every sample names its root's id."""
    samples = _samples(stats)
    return "".join(
        line
        for name, (kind, about) in METRICS.items()
        for line in _family(f"{PREFIX}{name}", kind, about, samples[name], stats.root_id)
    )


def _samples(stats: Stats) -> dict[str, list[_Sample]]:
    over = [row for row in stats.cleanups if row.outcome != STUCK]
    stuck = [row for row in stats.cleanups if row.outcome == STUCK]
    live, ratio = stats.agents_live, stats.success_rate
    return {
        "info": [_Sample(1, {"path": stats.root})],
        "agents_live": [] if live is None else [_Sample(live)],
        "sagas_open": [_Sample(n, {"state": state}) for state, n in stats.sagas.items()],
        "cleanups_stuck": [_Sample(row.count, {"reason": row.reason}) for row in stuck],
        "journals_unreadable": [_Sample(len(stats.unreadable))],
        "cleanups_total": [
            _Sample(row.count, {"reason": row.reason, "outcome": row.outcome}) for row in over
        ],
        "cleanup_success_ratio": [] if ratio is None else [_Sample(ratio)],
        "cleanup_freed_bytes_total": [_Sample(stats.bytes_freed)],
        "cleanup_duration_seconds": _histogram(stats),
        "leftovers_found_total": [
            _Sample(row.found, {"kind": row.kind}) for row in stats.leftovers
        ],
        "leftovers_reaped_total": [
            _Sample(row.reaped, {"kind": row.kind}) for row in stats.leftovers
        ],
    }


def _histogram(stats: Stats) -> list[_Sample]:
    times = stats.durations
    bounded = [
        _Sample(times.at_most(doubling), {"le": _number(2**doubling / 1000)}, "_bucket")
        for doubling in _DOUBLINGS
    ]
    return [
        *bounded,
        _Sample(times.count, {"le": "+Inf"}, "_bucket"),
        _Sample(round(times.sum_ms / 1000, 6), {}, "_sum"),
        _Sample(times.count, {}, "_count"),
    ]


def _family(
    name: str, kind: str, about: str, samples: Iterable[_Sample], root_id: str
) -> Iterable[str]:
    yield f"# HELP {name} {_escaped(about)}\n"
    yield f"# TYPE {name} {kind}\n"
    for sample in samples:
        labels = {"root": root_id, **sample.labels}
        shown = ",".join(f'{label}="{_quoted(value)}"' for label, value in labels.items())
        yield f"{name}{sample.suffix}{{{shown}}} {_number(sample.value)}\n"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
