"""
Statistics of cleanups, derived from the journals.

No process adds up counts at an end, because an end may be killed, may run in another process,
or may be done by an older release. Each query counts again: the closed journals have the end
of each saga, the open ones the live agents and the STUCK sagas. Retention removes
old journals, and keeps a summary (:mod:`~orchestrator_core.operations.metrics.summary`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

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
    Leftovers,
    Summary,
    read,
    statistics,
    to_rows,
)
from orchestrator_core.saga import State
from orchestrator_core.system.json_values import JsonValues

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Sagas

_ATTEMPTS = 3  #: Counts without the lock, before one with the lock.


@attrs.frozen(kw_only=True)
class Stats(JsonValues):
    """The cleanups of one root since its first end, and what is alive now."""

    root: str
    root_id: str
    cleanups: tuple[Cleanups, ...]  #: By reason and outcome, with those that are STUCK now.
    total: int  #: Of all cleanups.
    success_rate: float | None  #: The share after which nothing is known to be left; None of none.
    bytes_freed: int
    p50_ms: float | None  #: The longest duration of a cleanup in half of all cases …
    p95_ms: float | None  #: … and so on; to within 5 %.
    p99_ms: float | None
    max_ms: float
    leftovers: tuple[Leftovers, ...]  #: The findings of reaping sweeps, by kind, each once.
    stuck: tuple[str, ...]  #: The sagas that are STUCK now.
    sagas: dict[str, int]  #: The open sagas, by state.
    agents_live: int | None  #: Recorded as alive; None if the registry cannot be read.
    unreadable: tuple[str, ...] = ()  #: Open sagas whose journal cannot be read.
    since: str = ""  #: When the summary of removed journals was begun; empty if there is none.
    durations: Histogram = attrs.field(factory=Histogram, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-safe values."""
        plain = super().to_dict()
        del plain["durations"]
        return plain


def stats(context: RootContext, sagas: Sagas) -> Stats:
    """
    Return the statistics of a root, and change nothing.

    The count of ten thousand closed journals takes about 0.5 s.

    Raises:
        StorageError: The journals cannot be read.
        RegistryDamaged, RegistryTooNew: The summary cannot be read.
    """
    open_sagas = _read_open_sagas(sagas)
    summary, counts = _count_closed_sagas(context, sagas)
    counts.cleanups.update(open_sagas.stuck.values())
    times = counts.durations
    total = counts.cleanups.total()
    good = sum(n for (_, outcome), n in counts.cleanups.items() if outcome in SUCCESSES)
    return Stats(
        root=str(context.layout.root),
        root_id=context.root_id,
        cleanups=to_rows(counts),
        total=total,
        success_rate=round(good / total, 6) if total else None,
        bytes_freed=counts.bytes_freed,
        p50_ms=times.percentile(0.50),
        p95_ms=times.percentile(0.95),
        p99_ms=times.percentile(0.99),
        max_ms=times.max_ms,
        leftovers=summary.leftovers,
        stuck=tuple(open_sagas.stuck),
        sagas=open_sagas.states,
        agents_live=_agents_live(context),
        unreadable=tuple(open_sagas.unreadable),
        since=summary.since,
        durations=times,
    )


# --- open sagas ---------------------------------------------------------------------------------


@attrs.frozen
class _OpenSagas:
    states: dict[str, int]
    stuck: dict[str, tuple[str, str]]  #: Reason and outcome, by saga id.
    unreadable: list[str]


def _read_open_sagas(sagas: Sagas) -> _OpenSagas:
    found = _OpenSagas({state.value: 0 for state in State if state is not State.CLOSED}, {}, [])
    for saga_id in sagas.journals.ids():
        try:
            history = sagas.history(saga_id)
        except SagaNotFound:
            continue
        except OrchestratorError:
            found.unreadable.append(saga_id)
            continue
        if history.state is State.CLOSED:
            continue  # Its journal is about to move to the closed ones.
        found.states[history.state.value] += 1
        if history.state is State.STUCK:
            reason = UNKNOWN if history.why is None else unwind_reason(history.why)
            found.stuck[saga_id] = (reason, STUCK)
    return found


def _agents_live(context: RootContext) -> int | None:
    document = context.global_registry.read_or_none()
    if document is None:
        return None
    return sum(1 for entry in document["agents"].values() if is_active(entry.get("status")))


# --- closed sagas -------------------------------------------------------------------------------


def _count_closed_sagas(context: RootContext, sagas: Sagas) -> tuple[Summary, CleanupCounts]:
    """
    Return the summary, and the counts of removed and of closed journals together.

    A compaction may move a journal from the closed ones to the summary meanwhile. Only if the
    summary is the same before and after does the sum belong to one instant.
    """
    for _ in range(_ATTEMPTS):
        result = _add_closed_sagas(read(context), sagas)
        if read(context) == result[0]:
            return result
    with statistics(context).transaction() as document:
        return _add_closed_sagas(Summary.from_document(document), sagas)


def _add_closed_sagas(summary: Summary, sagas: Sagas) -> tuple[Summary, CleanupCounts]:
    counts, pending = summary.counts(), set(summary.pending)
    for saga_id in sagas.journals.closed_ids():
        if saga_id in pending:
            continue
        try:
            counts.add(sagas.journals.closed_report(saga_id))
        except FileNotFoundError:
            continue
        except (JournalDamaged, StorageError):
            counts.add_unreadable()
    return summary, counts
