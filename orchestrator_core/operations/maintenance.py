"""Maintenance of one root: sweeps, statistics, retention, exports, and rebuilt registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.operations import metrics
from orchestrator_core.operations.retention.collect import collect
from orchestrator_core.operations.retention.exporting import export
from orchestrator_core.reconcile import rebuild
from orchestrator_core.reconcile.repair import repair
from orchestrator_core.reconcile.sweep.run import sweep

if TYPE_CHECKING:
    import os

    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.operations.alerts import Alerts
    from orchestrator_core.operations.retention import ExportReport, GcReport
    from orchestrator_core.reconcile.repair import RepairReport
    from orchestrator_core.reconcile.sweep.findings import SweepReport


class Maintenance:
    """The maintenance verbs of :class:`~orchestrator_core.orchestrator.Orchestrator`."""

    def __init__(self, terminator: Terminator, alerts: Alerts, *, timeout_s: float) -> None:
        self._context = terminator.context
        self._sagas = terminator.sagas
        self._terminator = terminator
        self._alerts = alerts
        self._timeout_s = timeout_s

    def sweep(self, *, reap: bool, silent_after_s: float | None) -> SweepReport:
        """Sweep, record the findings, and send an alert for each new one that was not reaped."""
        if silent_after_s is None:
            silent_after_s = self._context.settings.sweep.silent_after_s
        report = sweep(
            self._terminator,
            reaping=reap,
            silent_after_s=silent_after_s,
            timeout_s=self._timeout_s,
        )
        fresh = set(metrics.record_sweep(self._context, report))
        for result in report.reaped:
            # A saga that got STUCK sends its own alert.
            if not result.success and result.end is None and result.finding in fresh:
                self._alerts.reaping_failed(result.finding.subject, result.message)
        return report

    def stats(self) -> metrics.Stats:
        """Return the statistics of all cleanups."""
        return metrics.stats(self._context, self._sagas)

    def gc(self, *, dry_run: bool) -> GcReport:
        """Remove and compress what the settings no longer keep."""
        return collect(self._context, self._sagas, dry_run=dry_run)

    def export_task(
        self, task_id: str, target: str | os.PathLike[str], *, remove: bool
    ) -> ExportReport:
        """Write a finished task into a tar file."""
        return export(self._context, self._sagas, task_id, target, remove=remove)

    def repair(self, task_id: str | None, *, only_global: bool, dry_run: bool) -> RepairReport:
        """Correct registries by all that is known."""
        return repair(
            self._context,
            self._sagas,
            task_id=task_id,
            only_global=only_global,
            dry_run=dry_run,
        )

    def rebuild_task(self, task_id: str) -> dict[str, Any]:
        """Return the document that replaces a task's damaged registry."""
        return rebuild.task_document(self._context, self._sagas, task_id)

    def rebuild_global(self) -> dict[str, Any]:
        """Return the document that replaces the damaged global registry."""
        return rebuild.global_document(self._context, self._sagas)
