"""The observer that logs the events of sagas."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orchestrator_core.saga.observer import Observer
from orchestrator_core.system.log import emit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator_core.saga.report import StepReport, UnwindReport
    from orchestrator_core.saga.step import Unwind


class LoggingObserver(Observer):
    """Logs the events of sagas: failures as warnings or errors, the rest as info."""

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """The saga's intents are durable; no resource has been taken."""
        emit(logging.INFO, "saga.begun", saga_id=saga_id, labels=dict(labels))

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """A step holds its resource."""
        emit(logging.INFO, "step.done", saga_id=saga_id, step=step, duration_ms=duration_ms)

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step raised; its saga unwinds next."""
        emit(logging.WARNING, "step.failed", saga_id=saga_id, step=step, error=repr(error))

    def saga_committed(self, saga_id: str) -> None:
        """All steps are done, durably."""
        emit(logging.INFO, "saga.committed", saga_id=saga_id)

    def end_requested(self, saga_id: str, why: Unwind) -> None:
        """An end was requested; another process will unwind the saga."""
        emit(logging.INFO, "saga.end_requested", saga_id=saga_id, why=why.message)

    def unwinding_begun(self, saga_id: str, why: Unwind) -> None:
        """The saga is being undone."""
        emit(
            logging.INFO,
            "saga.unwinding",
            saga_id=saga_id,
            reason=why.reason.value,
            why=why.message,
        )

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """A step's undo returned; see its result."""
        emit(
            logging.INFO,
            "step.undone",
            saga_id=saga_id,
            step=report.step,
            result=report.result,
            duration_ms=report.duration_ms,
        )

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step's undo raised; the others go on, and this one is retried."""
        emit(logging.WARNING, "step.undo_failed", saga_id=saga_id, step=step, error=repr(error))

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """Some steps could not be undone, for now."""
        emit(
            logging.ERROR,
            "saga.stuck",
            saga_id=saga_id,
            steps=[step.step for step in report.failed],
            retry_at=report.retry_at,
        )

    def step_abandoned(self, saga_id: str, step: str, by: str, reason: str) -> None:
        """An operator gave a step up."""
        emit(logging.WARNING, "step.abandoned", saga_id=saga_id, step=step, by=by, reason=reason)

    def saga_closed(self, saga_id: str, report: UnwindReport) -> None:
        """The saga is closed; nothing is held."""
        emit(
            logging.INFO,
            "saga.closed",
            saga_id=saga_id,
            reason=report.why.reason.value,
            duration_ms=report.duration_ms,
        )

    def journal_damaged(self, saga_id: str, kept: Path) -> None:
        """A damaged journal was quarantined as *kept*, and rebuilt."""
        emit(logging.ERROR, "journal.damaged", saga_id=saga_id, kept=str(kept))
