"""The facade's maintenance verbs: a base class that imports no maintenance before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.system.lazy import LazyAttribute
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    import os

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.settings import Settings
    from orchestrator_core.operations.alerts import Alerts, OnFailedCleanup
    from orchestrator_core.operations.metrics import Stats
    from orchestrator_core.operations.retention import ExportReport, GcReport
    from orchestrator_core.reconcile.repair import RepairReport
    from orchestrator_core.reconcile.sweep.findings import SweepReport
    from orchestrator_core.saga import RecoveryReport


class MaintenanceVerbs:
    """What :class:`~orchestrator_core.orchestrator.Orchestrator` does to maintain its root."""

    _context: RootContext
    _timeout_s: float
    _on_failed_cleanup: OnFailedCleanup | None

    if TYPE_CHECKING:

        @property
        def _terminator(self) -> Terminator: ...

    @property
    def settings(self) -> Settings:
        """The settings in the root's ``orchestrator.toml``, with defaults for the rest."""
        return self._context.settings

    def approve_settings(self, *, dry_run: bool = False) -> dict[str, Any]:
        """
        Approve the commands and modules that the root's ``orchestrator.toml`` names now.

        Without an approval its sections ``[alerts]``, ``[mcp]`` and ``[steps]`` do not count,
        because agents may be able to write the file. The approval is durable, is kept in this
        user's configuration directory, and holds for every process of this user until one of
        these sections changes. Returns the sections that were not approved before. With
        *dry_run* nothing is approved.

        Raises:
            InvalidInput: The file is invalid.
            StorageError: The file cannot be read, or the approval cannot be written.
        """
        from orchestrator_core.model import settings  # noqa: PLC0415

        root = self._context.layout.root
        pending = settings.unapproved(root) if dry_run else settings.approve(root)
        if not dry_run:
            self._context.__dict__.pop("settings", None)  # They are read again.
        return pending

    @property
    def damaged(self) -> list[dict[str, str]]:
        """The registries found damaged since this was opened: which, where it is kept, and why."""
        return [
            {"registry": str(copy.registry), "kept": str(copy.kept), "why": copy.why}
            for copy in self._context.quarantined
        ]

    @property
    def unreadable(self) -> dict[str, str]:
        """
        The files that the last listing of agents or tasks could not read, and why, by path.

        Agents in them may be missing from the listing.
        """
        from orchestrator_core.reconcile.legacy.unlisted import foreign_note  # noqa: PLC0415

        layout = self._context.layout
        note = foreign_note(layout)
        foreign = {str(layout.foreign_database): note} if note else {}
        return {**self._context.unreadable, **foreign}

    @LazyAttribute
    def _alerts(self) -> Alerts:
        from orchestrator_core.operations.alerts import Alerts  # noqa: PLC0415

        return Alerts(self._context, self._on_failed_cleanup)

    def _rebuild_task(self, task_id: str) -> dict[str, Any]:
        from orchestrator_core.reconcile import rebuild  # noqa: PLC0415

        return rebuild.rebuild_document(self._context, task_id)

    def _rebuild_global(self) -> dict[str, Any]:
        from orchestrator_core.reconcile import rebuild  # noqa: PLC0415

        return rebuild.rebuild_document(self._context, None)

    def recover(self, agent_id: str | None = None, *, force: bool = False) -> RecoveryReport:
        """
        Finish what dead owners left, and end agents that died or passed their deadline.

        Safe at any time, beside other processes, and idempotent. With *force*, a STUCK saga
        is tried again at once.

        Raises:
            SagaNotFound: The agent *agent_id* has no open saga.
        """
        only = None if agent_id is None else check_id("agent", agent_id)
        return self._terminator.recover(only=only, force=force)

    def abandon(self, agent_id: str, step: str, *, reason: str) -> None:
        """
        Give up a step of a STUCK agent: what the step holds may remain.

        The journal keeps the *reason* and its author for ever; the next :meth:`recover` counts
        the step as dealt with.

        Raises:
            SagaNotFound: There is no open saga of that agent.
            SagaError: It is not stuck, or has no such step.
        """
        self._terminator.abandon(check_id("agent", agent_id), step, reason=reason)

    def sweep(self, *, reap: bool = False, silent_after_s: float | None = None) -> SweepReport:
        """
        Find what no saga accounts for, and the sagas that no process attends to.

        All is read once, however many agents there are, and compared with the journals. What
        could not be asked is in the report's ``unknown``, and is left alone. With *reap*, each
        finding with two proofs that it is this root's is ended by a saga's unwinding. What
        cannot be reaped is in the report. Safe at any time, beside other processes.

        An agent is silent if it has neither written nor reported for longer than its spec's
        ``silent_after_s``, or *silent_after_s*, or the setting in ``orchestrator.toml``.
        """
        from orchestrator_core.operations.metrics.summary import record_sweep  # noqa: PLC0415
        from orchestrator_core.reconcile.sweep.run import sweep  # noqa: PLC0415

        if silent_after_s is None:
            silent_after_s = self.settings.sweep.silent_after_s
        report = sweep(
            self._terminator,
            reaping=reap,
            silent_after_s=silent_after_s,
            timeout_s=self._timeout_s,
        )
        fresh = set(record_sweep(self._context, report))
        for result in report.reaped:
            # A saga that got STUCK sends its own alert.
            if not result.success and result.end is None and result.finding in fresh:
                self._alerts.reaping_failed(result.finding.subject, result.message)
        return report

    def stats(self) -> Stats:
        """
        Return how cleanups have gone since this root's first end, and what lives now.

        Raises:
            RegistryDamaged: The summary of journals that are gone cannot be read.
        """
        from orchestrator_core.operations import metrics  # noqa: PLC0415

        return metrics.stats(self._context, self._terminator.sagas)

    def gc(self, *, dry_run: bool = False) -> GcReport:
        """
        Remove what has been kept for long enough, and compress the rest, as the settings say.

        This concerns archived files of ended agents, and their closed journals, which are
        counted first. What cannot be removed is in the report. With *dry_run* nothing is
        changed, and the report says what would be.

        Raises:
            InvalidInput: The settings make no sense.
            LockTimeout: Another process is doing it.
            StorageError: The files of live agents are unknown; nothing was removed.
        """
        from orchestrator_core.operations.retention.collect import collect  # noqa: PLC0415

        return collect(self._context, self._terminator.sagas, dry_run=dry_run)

    def export_task(
        self, task_id: str, target: str | os.PathLike[str], *, remove: bool = False
    ) -> ExportReport:
        """
        Write a finished task into one new tar file; durable, and read back, when this returns.

        With *remove* it is then removed here, directory and journals: all of it or none.

        Raises:
            NotFound: There is no such task.
            TaskRunning: An agent of it lives, or is not given back yet. Nothing was done.
            InvalidInput: The target exists, or is inside the task.
            StorageError: It could not be written or read back; nothing is removed.
        """
        from orchestrator_core.operations.retention.exporting import export  # noqa: PLC0415

        check_id("task", task_id)
        return export(self._context, self._terminator.sagas, task_id, target, remove=remove)

    def repair(
        self, task_id: str | None = None, *, only_global: bool = False, dry_run: bool = False
    ) -> RepairReport:
        """
        Correct registries by all that is known: one task's, the global one, or all.

        What a journal contradicts is corrected. What was lost is rebuilt from journals, reports
        and the readable parts of damaged copies. What only the registry knows is kept, and no
        agent is ended. With *dry_run* nothing is changed, and the report says what would be.

        Raises:
            NotFound: There is no such task.
        """
        from orchestrator_core.reconcile.repair import repair  # noqa: PLC0415

        return repair(
            self._context,
            task_id=task_id,
            only_global=only_global,
            dry_run=dry_run,
        )
