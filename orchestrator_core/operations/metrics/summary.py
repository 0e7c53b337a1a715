"""
The summary of removed journals, in ``registry/STATS.json``.

A journal is first counted, then removed, and a crash may come between. The write that counts
a journal therefore also lists it in ``pending``. Readers skip pending journals, and the next
compaction removes them. So at every instant each journal is in exactly one of two places: in
the counts, or in ``closed/`` and not pending.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import attrs
import msgspec

from orchestrator_core.exceptions import (
    JournalDamaged,
    NotFound,
    OrchestratorError,
    RegistryDamaged,
    StorageError,
)
from orchestrator_core.operations.metrics.cleanup_counts import CleanupCounts, Histogram
from orchestrator_core.registry import Registry
from orchestrator_core.registry.document import Schema
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.log import emit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.findings import Finding, SweepReport
    from orchestrator_core.saga import JournalStore, Sagas


@attrs.frozen(kw_only=True)
class Cleanups:
    """The number of cleanups with one reason and one outcome."""

    reason: str
    outcome: str
    count: int


@attrs.frozen(kw_only=True)
class Leftovers:
    """The number of findings of one kind, and of those that were reaped."""

    kind: str
    found: int = 0
    reaped: int = 0


@attrs.frozen(kw_only=True)
class Summary:
    """The content of the document."""

    since: str = ""  #: When it was begun.
    pending: tuple[str, ...] = ()  #: Counted, and perhaps not removed yet.
    cleanups: tuple[Cleanups, ...] = ()
    bytes_freed: int = 0
    durations: Histogram = attrs.field(factory=Histogram)
    leftovers: tuple[Leftovers, ...] = ()
    standing: tuple[str, ...] = ()  #: The findings that the last reaping sweep has left.

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """
        Return the summary in a document.

        Raises:
            RegistryDamaged: A field has the wrong type.
        """
        try:
            return msgspec.convert(document, cls, str_keys=True)
        except msgspec.ValidationError as error:
            raise RegistryDamaged(
                f"the statistics cannot be used: {error}",
                hint="repair registry/STATS.json, or move it away to restart the counts",
            ) from error

    def write_to(self, document: dict[str, Any]) -> None:
        """Write the summary into a document. Unknown fields of the document stay."""
        document.update(msgspec.to_builtins(self, str_keys=True))

    def counts(self) -> CleanupCounts:
        """Return the counts of the removed journals, as a copy."""
        return CleanupCounts(
            Counter({(row.reason, row.outcome): row.count for row in self.cleanups}),
            self.bytes_freed,
            attrs.evolve(self.durations, buckets=dict(self.durations.buckets)),
        )

    def with_counts(self, counts: CleanupCounts) -> Summary:
        """Return the summary with other counts."""
        buckets = dict(sorted(counts.durations.buckets.items()))
        return attrs.evolve(
            self,
            since=self.since or timestamp(),
            cleanups=to_rows(counts),
            bytes_freed=counts.bytes_freed,
            durations=attrs.evolve(counts.durations, buckets=buckets),
        )


def to_rows(counts: CleanupCounts) -> tuple[Cleanups, ...]:
    """Return the counts as rows, sorted by reason and outcome."""
    return tuple(
        Cleanups(reason=reason, outcome=outcome, count=count)
        for (reason, outcome), count in sorted(counts.cleanups.items())
    )


# --- on disk ----------------------------------------------------------------------------------


def _from_0(_document: dict[str, Any]) -> None:
    """Migrate a document without a version: an empty one of version 1."""


_SCHEMA = Schema(
    name="statistics", entry_fields={}, derive=lambda _document: None, migrations=(_from_0,)
)


def statistics(context: RootContext) -> Registry:
    """Return the document on disk. A damaged one is quarantined, and the counts restart."""
    return Registry(
        context.layout.statistics,
        schema=_SCHEMA,
        rebuild=dict,
        on_damage=context.quarantined.append,
        lock_timeout_s=context.lock_timeout_s,
    )


def read(context: RootContext) -> Summary:
    """Return the summary; an empty one, without creating the file, if there is none."""
    registry = statistics(context)
    if os.path.lexists(registry.path):
        with contextlib.suppress(NotFound):  # Removed meanwhile.
            return Summary.from_document(registry.read())
    return Summary()


# --- compaction -------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CompactionResult:
    """The result of a compaction."""

    sagas: tuple[str, ...] = ()  #: Counted and removed.
    bytes_freed: int = 0
    failed: dict[str, str] = attrs.field(factory=dict)  #: The errors, by saga id.


def compact_journals(
    context: RootContext, sagas: Sagas, saga_ids: Iterable[str]
) -> CompactionResult:
    """
    Count closed journals in the summary, durably, and remove them.

    A crash at any instant leaves each journal counted once, and the next call finishes. Open
    and missing sagas are ignored.

    Raises:
        StorageError, LockTimeout: The summary cannot be written; nothing is removed.
        RegistryDamaged, RegistryTooNew: The summary cannot be read.
    """
    journals = sagas.journals
    registry = statistics(context)
    wanted = list(dict.fromkeys(saga_ids))
    if not wanted and not read(context).pending:
        return CompactionResult()
    registry.create({})
    failed: dict[str, str] = {}
    with registry.transaction() as document:
        pending = _count(document, journals, wanted, failed)
    removed: dict[str, int] = {}
    for saga_id in pending:
        try:
            removed[saga_id] = journals.remove_closed(saga_id)
        except StorageError as error:
            failed[saga_id] = str(error)  # The journal stays pending.
    journals.sync_closed()
    with registry.transaction() as document:
        summary = Summary.from_document(document)
        pending = tuple(saga_id for saga_id in summary.pending if saga_id not in removed)
        attrs.evolve(summary, pending=pending).write_to(document)
    return CompactionResult(sagas=tuple(removed), bytes_freed=sum(removed.values()), failed=failed)


def _count(
    document: dict[str, Any], journals: JournalStore, wanted: Iterable[str], failed: dict[str, str]
) -> tuple[str, ...]:
    """Count the journals that are not counted yet, and return all that are to be removed."""
    summary = Summary.from_document(document)
    counts, pending = summary.counts(), dict.fromkeys(summary.pending)
    for saga_id in wanted:
        if saga_id in pending:
            continue
        # Under the lock: a journal that another process has counted and removed is gone by now.
        try:
            counts.add(journals.closed_report(saga_id))
        except FileNotFoundError:
            continue
        except JournalDamaged:
            counts.add_unreadable()
        except StorageError as error:
            failed[saga_id] = str(error)
            continue
        pending[saga_id] = None
    attrs.evolve(summary.with_counts(counts), pending=tuple(pending)).write_to(document)
    return tuple(pending)


# --- findings ---------------------------------------------------------------------------------


def record_sweep(context: RootContext, report: SweepReport) -> tuple[Finding, ...]:
    """
    Count the findings of a reaping sweep, and return those that the last one did not have.

    A dry run is not counted. A finding that several sweeps have is counted once. An error of
    the count is logged, and all findings are returned.
    """
    if report.dry_run:
        return ()
    try:
        new = _record_findings(context, report)
    except OrchestratorError as error:
        _log_not_recorded("a sweep", error)
        return report.findings
    return tuple(finding for finding in report.findings if _name(finding) in new)


def _record_findings(context: RootContext, report: SweepReport) -> set[str]:
    """
    Count the findings of a sweep, durably, and return the names of the new ones.

    The next sweep finds again what is left, and does not count it again.
    """
    kinds = {_name(finding): finding.kind.value for finding in report.findings}
    if not kinds and not read(context).standing:
        return set()
    keys = {finding.key for finding in report.left}
    left = {_name(finding) for finding in report.findings if finding.key in keys}
    registry = statistics(context)
    registry.create({})
    with registry.transaction() as document:
        summary = Summary.from_document(document)
        new = kinds.keys() - set(summary.standing)
        found = Counter({row.kind: row.found for row in summary.leftovers})
        reaped = Counter({row.kind: row.reaped for row in summary.leftovers})
        found.update(kinds[name] for name in new)
        reaped.update(one.finding.kind.value for one in report.reaped if one.success)
        attrs.evolve(
            summary,
            since=summary.since or timestamp(),
            leftovers=tuple(
                Leftovers(kind=kind, found=found[kind], reaped=reaped[kind])
                for kind in sorted(found | reaped)
            ),
            standing=tuple(sorted(left)),
        ).write_to(document)
    return new


def _name(finding: Finding) -> str:
    """Return a finding's name, which is the same in each sweep."""
    return " ".join((finding.kind.value, *finding.key)).rstrip()


def _log_not_recorded(what: str, error: OrchestratorError) -> None:
    """Something was done, but could not be counted in `registry/STATS.json`."""
    emit(logging.WARNING, "stats.not_recorded", what=what, error=str(error))
