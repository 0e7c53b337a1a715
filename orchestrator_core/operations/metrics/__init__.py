"""
What cleaning up has come to, counted from what is there.

Nobody adds anything up at an end: an end is killed, runs in a process of its own,
or is carried out by an older release. The counts are derived, whenever
they are asked for, from the journals: the closed ones tell how each saga ended,
the open ones what lives and what is STUCK. Of the journals that retention has
removed a summary is kept (:mod:`~orchestrator_core.operations.metrics.summary`).
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import (
    JournalDamaged,
    OrchestratorError,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.model.status import is_active
from orchestrator_core.operations.metrics.cleanup_counts import (
    STUCK,
    SUCCESSES,
    UNKNOWN,
    CleanupCounts,
    Histogram,
    unwind_reason,
)
from orchestrator_core.operations.metrics.summary import (
    Cleanups,
    CompactionResult,
    Leftovers,
    compact_journals,
    read,
    record_findings,
    statistics,
    to_rows,
)
from orchestrator_core.operations.metrics.summary import Summary as _Summary
from orchestrator_core.saga import State
from orchestrator_core.system import log

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.findings import Finding, SweepReport
    from orchestrator_core.saga import Sagas

__all__ = [
    "Cleanups",
    "CompactionResult",
    "Leftovers",
    "Stats",
    "compact_journals",
    "record_sweep",
    "stats",
]

_TRIES = 3  #: Looks without a lock, before one with it.


@attrs.frozen(kw_only=True)
class Stats:
    """How cleaning up has gone below one root, ever since its first end, and what lives now."""

    root: str
    root_id: str
    cleanups: tuple[Cleanups, ...]  #: By reason and outcome, those that are STUCK now among them.
    total: int  #: All of them.
    success_rate: float | None  #: The share after which nothing is known to be left; None of none.
    bytes_freed: int
    p50_ms: float | None  #: How long cleaning up takes at most, in half of all cases …
    p95_ms: float | None  #: … and so on; to within 5 %.
    p99_ms: float | None
    max_ms: float
    leftovers: tuple[Leftovers, ...]  #: What reaping sweeps have found, by kind; each thing once.
    stuck: tuple[str, ...]  #: The sagas that are STUCK now.
    sagas: dict[str, int]  #: How many are open, by state.
    agents_live: int | None  #: Recorded as alive; None if the registry cannot be read.
    unreadable: tuple[str, ...] = ()  #: Open sagas whose journal cannot be read.
    since: str = ""  #: Since when a summary is kept of what is gone; empty if nothing is.
    durations: Histogram = attrs.field(factory=Histogram, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(attrs.evolve(self, durations=Histogram()))
        del plain["durations"]
        return plain


def stats(context: RootContext, sagas: Sagas) -> Stats:
    """
    Count. Ten thousand closed journals take about half a second; nothing is changed.

    Raises:
        StorageError: The journals cannot be read.
        RegistryDamaged, RegistryTooNew: The summary cannot.
    """
    living = _living(sagas)
    summary, tally = _past(context, sagas)
    tally.cleanups.update(living.stuck.values())
    times = tally.durations
    total = tally.cleanups.total()
    good = sum(n for (_, outcome), n in tally.cleanups.items() if outcome in SUCCESSES)
    return Stats(
        root=str(context.layout.root),
        root_id=context.root_id,
        cleanups=to_rows(tally),
        total=total,
        success_rate=round(good / total, 6) if total else None,
        bytes_freed=tally.bytes_freed,
        p50_ms=times.percentile(0.50),
        p95_ms=times.percentile(0.95),
        p99_ms=times.percentile(0.99),
        max_ms=times.max_ms,
        leftovers=summary.leftovers,
        stuck=tuple(living.stuck),
        sagas=living.states,
        agents_live=_agents_live(context),
        unreadable=tuple(living.unreadable),
        since=summary.since,
        durations=times,
    )


# --- the living ---------------------------------------------------------------------------------


@attrs.frozen
class _Living:
    states: dict[str, int]
    stuck: dict[str, tuple[str, str]]  #: Reason and outcome, by saga id.
    unreadable: list[str]


def _living(sagas: Sagas) -> _Living:
    states = Counter({state.value: 0 for state in State if state is not State.CLOSED})
    found = _Living(states, {}, [])
    for saga_id in sagas.journals.ids():
        try:
            history = sagas.history(saga_id)
        except SagaNotFound:
            continue
        except OrchestratorError:
            found.unreadable.append(saga_id)
            continue
        if history.state is State.CLOSED:
            continue  # On its way to where the closed ones are.
        states[history.state.value] += 1
        if history.state is State.STUCK:
            reason = UNKNOWN if history.why is None else unwind_reason(history.why)
            found.stuck[saga_id] = (reason, STUCK)
    return found


def _agents_live(context: RootContext) -> int | None:
    document = context.global_registry.read_or_none()
    if document is None:
        return None
    return sum(1 for entry in document["agents"].values() if is_active(entry.get("status")))


# --- the past -----------------------------------------------------------------------------------


def _past(context: RootContext, sagas: Sagas) -> tuple[_Summary, CleanupCounts]:
    """
    Return what is remembered, and it and the closed journals counted together.

    Journals move from one to the other meanwhile: only if the summary was the
    same before and after is the sum that of one moment.
    """
    for _ in range(_TRIES):
        summary = read(context)
        tally = _counted(summary, sagas)
        if read(context) == summary:
            return summary, tally
    found: list[tuple[_Summary, CleanupCounts]] = []

    def look(document: dict[str, Any]) -> None:
        summary = _Summary.of(document)
        found.append((summary, _counted(summary, sagas)))

    statistics(context).update(look)
    return found[0]


def _counted(summary: _Summary, sagas: Sagas) -> CleanupCounts:
    journals, tally = sagas.journals, summary.tally()
    pending = set(summary.pending)
    for saga_id in journals.closed_ids():
        if saga_id in pending:
            continue
        try:
            tally.add(journals.closed_report(saga_id))
        except FileNotFoundError:
            continue
        except (JournalDamaged, StorageError):
            tally.add_unreadable()
    return tally


# --- what sweeps find -----------------------------------------------------------------------------


def record_sweep(context: RootContext, report: SweepReport) -> tuple[Finding, ...]:
    """
    Count what a reaping sweep has found and reaped, and return what the last one had not found.

    A dry run counts for nothing. What one sweep has left the next one finds again: it is
    counted once. That it could not be recorded is logged, and no reason for a sweep to fail.
    """
    if report.dry_run:
        return ()
    left = {finding.key for finding in report.left}
    try:
        fresh = record_findings(
            context,
            found={_name(finding): finding.kind.value for finding in report.findings},
            reaped=[one.finding.kind.value for one in report.reaped if one.success],
            left=[_name(finding) for finding in report.findings if finding.key in left],
        )
    except OrchestratorError as error:
        _log_not_recorded("a sweep", error)
        return report.findings
    return tuple(finding for finding in report.findings if _name(finding) in fresh)


def _log_not_recorded(what: str, error: OrchestratorError) -> None:
    """Something could not be counted into `registry/STATS.json`; it was done all the same."""
    log.emit(logging.WARNING, "stats.not_recorded", what=what, error=str(error))


def _name(finding: Finding) -> str:
    return " ".join((finding.kind.value, *finding.key)).rstrip()
