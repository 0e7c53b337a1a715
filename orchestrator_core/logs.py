"""
Events, through structlog, into the standard logger ``orchestrator_core``.

Silent until the application configures logging: the logger has a NullHandler,
and structlog is wrapped around it here alone, so nothing of the application's
own structlog or logging is touched. An event's values are the record's
attributes (``record.saga_id``), so any formatter, JSON ones included, finds them.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from orchestrator_core.saga.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator_core.saga.report import StepReport, UnwindReport
    from orchestrator_core.saga.step import Unwind

LOGGER = logging.getLogger("orchestrator_core")
LOGGER.addHandler(logging.NullHandler())


@functools.cache
def _structlog() -> Any:  # noqa: ANN401 - structlog's loggers are duck-typed
    import structlog  # noqa: PLC0415 - slow to import, and only for those who listen

    return structlog.wrap_logger(
        LOGGER,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        cache_logger_on_first_use=True,
    )


def emit(level: int, event: str, **values: object) -> None:
    """Log an event: a stable name, and its values as keys. Costs nothing if nobody listens."""
    if LOGGER.isEnabledFor(level):
        _structlog().log(level, event, **values)


class LoggingObserver(Observer):
    """Logs what happens to sagas: failures as warnings, the rest as info."""

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """The saga's intents are durable; nothing has been taken."""
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
        """An end was asked for; somebody else will unwind."""
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
        """A step's undo has come to something; see its result."""
        emit(
            logging.INFO,
            "step.undone",
            saga_id=saga_id,
            step=report.step,
            result=report.result,
            duration_ms=report.duration_ms,
        )

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step's undo raised; the others go on, and it is tried again."""
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
        """Nothing is held any more."""
        emit(
            logging.INFO,
            "saga.closed",
            saga_id=saga_id,
            reason=report.why.reason.value,
            duration_ms=report.duration_ms,
        )

    def journal_damaged(self, saga_id: str, kept: Path) -> None:
        """A damaged journal was kept aside and rebuilt."""
        emit(logging.ERROR, "journal.damaged", saga_id=saga_id, kept=str(kept))
