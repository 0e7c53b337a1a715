"""
What is remembered of the journals that are gone: ``registry/STATS.json``.

A journal is counted, then removed, and a crash may come between. So the
summary names the journals it has counted that may still be there, ``pending``,
in the same write as the count; whoever reads skips those, and the next one to
forget removes them. A journal is in the count, or in ``closed/`` and not
pending: at every instant exactly one of the two.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from orchestrator_core.exceptions import (
    JournalDamaged,
    NotFound,
    RegistryDamaged,
    StorageError,
)
from orchestrator_core.operations.metrics.cleanup_counts import CleanupCounts, Histogram
from orchestrator_core.registry import Registry
from orchestrator_core.registry.document import Schema
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import JournalStore, Sagas


@attrs.frozen(kw_only=True)
class Cleanups:
    """How often something was cleaned up for a reason, and came to an outcome."""

    reason: str
    outcome: str
    count: int


@attrs.frozen(kw_only=True)
class Leftovers:
    """What sweeps have found of one kind."""

    kind: str
    found: int = 0
    reaped: int = 0


@attrs.frozen(kw_only=True)
class Durations:
    """A histogram as it is written: counts by the number of the bucket."""

    buckets: dict[str, int] = attrs.field(factory=dict)
    sum_ms: float = 0.0
    max_ms: float = 0.0


@attrs.frozen(kw_only=True)
class Summary:
    """The document."""

    since: str = ""  #: When it was begun.
    pending: tuple[str, ...] = ()  #: Counted, and perhaps not removed yet.
    cleanups: tuple[Cleanups, ...] = ()
    bytes_freed: int = 0
    durations: Durations = attrs.field(factory=Durations)
    leftovers: tuple[Leftovers, ...] = ()
    standing: tuple[str, ...] = ()  #: What the last reaping sweep found, and has left.

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """
        Read a document.

        Raises:
            RegistryDamaged: Somebody has made something else of it.
        """
        try:
            summary = msgspec.convert(document, cls)
            summary.tally()
        except (msgspec.ValidationError, ValueError) as error:
            raise RegistryDamaged(
                f"the statistics cannot be used: {error}",
                hint="mend registry/STATS.json, or move it away to count anew",
            ) from error
        return summary

    def write_to(self, document: dict[str, Any]) -> None:
        """Write it into a document, whose other fields stay."""
        document.update(msgspec.to_builtins(self))

    def tally(self) -> CleanupCounts:
        """Return what it has counted."""
        written = self.durations
        buckets = {int(number): count for number, count in written.buckets.items()}
        return CleanupCounts(
            Counter({(row.reason, row.outcome): row.count for row in self.cleanups}),
            self.bytes_freed,
            Histogram(buckets, written.sum_ms, written.max_ms),
        )

    def with_tally(self, tally: CleanupCounts) -> Summary:
        """Return it with another count."""
        times = tally.durations
        buckets = {str(number): times.buckets[number] for number in sorted(times.buckets)}
        return attrs.evolve(
            self,
            since=self.since or timestamp(),
            cleanups=to_rows(tally),
            bytes_freed=tally.bytes_freed,
            durations=Durations(buckets=buckets, sum_ms=times.sum_ms, max_ms=times.max_ms),
        )


def to_rows(tally: CleanupCounts) -> tuple[Cleanups, ...]:
    """Return the counts as rows, in the order of their names."""
    return tuple(
        Cleanups(reason=reason, outcome=outcome, count=count)
        for (reason, outcome), count in sorted(tally.cleanups.items())
    )


# --- on disk ----------------------------------------------------------------------------------


def _from_0(_document: dict[str, Any]) -> None:
    """A document without a version is one of version 1 that has nothing in it."""


_SCHEMA = Schema(
    name="statistics", entry_fields={}, derive=lambda _document: None, migrations=(_from_0,)
)


def statistics(context: RootContext) -> Registry:
    """Return the document on disk. Damaged, it is kept aside, and counting begins anew."""
    return Registry(
        context.layout.statistics,
        schema=_SCHEMA,
        rebuild=dict,
        on_damage=context.quarantined.append,
        lock_timeout_s=context.lock_timeout_s,
    )


def read(context: RootContext) -> Summary:
    """Return what is remembered; nothing, and no file is made, if nothing was forgotten yet."""
    registry = statistics(context)
    if not os.path.lexists(registry.path):
        return Summary()
    try:
        return Summary.of(registry.read())
    except NotFound:
        return Summary()


@attrs.frozen(kw_only=True)
class CompactionResult:
    """What became of journals that were to be forgotten."""

    sagas: tuple[str, ...] = ()  #: Counted, and gone.
    bytes_freed: int = 0
    failed: dict[str, str] = attrs.field(factory=dict)  #: Why not, by saga id.


def compact_journals(
    context: RootContext, sagas: Sagas, saga_ids: Iterable[str]
) -> CompactionResult:
    """
    Count closed journals in the summary, durably, and remove them.

    Killed at any instant, each is counted once; the next call finishes. Those that
    are open, or not there, are passed over.

    Raises:
        StorageError, LockTimeout: The summary cannot be written; nothing is removed.
        RegistryDamaged, RegistryTooNew: It cannot be read.
    """
    journals = sagas.journals
    registry = statistics(context)
    wanted = list(dict.fromkeys(saga_ids))
    if not wanted and not read(context).pending:
        return CompactionResult()
    registry.create({})
    failed: dict[str, str] = {}
    pending = registry.update(lambda document: _count(document, journals, wanted, failed))
    gone, freed = _remove(journals, pending, failed)
    registry.update(lambda document: _settle(document, gone))
    return CompactionResult(sagas=tuple(gone), bytes_freed=freed, failed=failed)


def _count(
    document: dict[str, Any], journals: JournalStore, wanted: Sequence[str], failed: dict[str, str]
) -> tuple[str, ...]:
    """Count those that are not counted yet; return all that are to be removed."""
    summary = Summary.of(document)
    tally, counted = summary.tally(), set(summary.pending)
    pending = list(summary.pending)
    for saga_id in wanted:
        if saga_id in counted:
            continue
        # Read here, under the lock: what another has counted and removed is gone by now.
        try:
            tally.add(journals.closed_report(saga_id))
        except FileNotFoundError:
            continue
        except JournalDamaged:
            tally.add_unreadable()
        except StorageError as error:
            failed[saga_id] = str(error)
            continue
        pending.append(saga_id)
    attrs.evolve(summary.with_tally(tally), pending=tuple(pending)).write_to(document)
    return tuple(pending)


def _remove(
    journals: JournalStore, pending: Iterable[str], failed: dict[str, str]
) -> tuple[list[str], int]:
    gone, freed = [], 0
    for saga_id in pending:
        try:
            freed += journals.remove_closed(saga_id)
            gone.append(saga_id)
        except StorageError as error:
            failed[saga_id] = str(error)  # It stays pending: counted, and to be removed.
    journals.sync_closed()
    return gone, freed


def _settle(document: dict[str, Any], gone: Iterable[str]) -> None:
    summary = Summary.of(document)
    left = set(summary.pending) - set(gone)
    kept = tuple(saga_id for saga_id in summary.pending if saga_id in left)
    attrs.evolve(summary, pending=kept).write_to(document)


def record_findings(
    context: RootContext, *, found: Mapping[str, str], reaped: Iterable[str], left: Iterable[str]
) -> set[str]:
    """
    Count what a sweep has found, durably; return the names of what is new.

    *found* has the kind of each thing by its name, *reaped* the kinds of what was
    reaped. What is *left* the next sweep finds again, and does not count again.

    Raises:
        OrchestratorError: See :func:`compact_journals`.
    """
    reaped, standing = Counter(reaped), tuple(sorted(set(left)))
    if not found and not read(context).standing:
        return set()
    registry = statistics(context)
    registry.create({})

    def enter(document: dict[str, Any]) -> set[str]:
        summary = Summary.of(document)
        fresh = found.keys() - set(summary.standing)
        counts = Counter(found[name] for name in fresh)
        rows = {row.kind: row for row in summary.leftovers}
        for kind in {*counts, *reaped}:
            row = rows.get(kind, Leftovers(kind=kind))
            rows[kind] = attrs.evolve(
                row, found=row.found + counts[kind], reaped=row.reaped + reaped[kind]
            )
        attrs.evolve(
            summary,
            since=summary.since or timestamp(),
            leftovers=tuple(rows[kind] for kind in sorted(rows)),
            standing=standing,
        ).write_to(document)
        return fresh

    return registry.update(enter)
