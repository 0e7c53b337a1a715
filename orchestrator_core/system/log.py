"""
Events, into whatever logging the application has; none of it is configured here.

An application that has configured structlog gets them through its own processors, as
if it had logged them itself. To any other they are records of the standard logger
``orchestrator_core``, with an event's values as attributes (``record.saga_id``), so that
any formatter finds them; that logger has a NullHandler, and so is silent until somebody
listens. structlog's own default, printing to standard output, never applies.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from orchestrator_core.saga.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType

    from orchestrator_core.saga.report import StepReport, UnwindReport
    from orchestrator_core.saga.step import Unwind

NAME = "orchestrator_core"  #: Of the standard logger, and the value ``logger`` of each event.
LOGGER = logging.getLogger(NAME)
LOGGER.addHandler(logging.NullHandler())


def emit(level: int, event: str, **values: object) -> None:
    """
    Log an event: a stable name, and its values as keys.

    Costs next to nothing if nobody listens. What the application's processors raise is
    not passed on: telling of something must not change it.
    """
    structlog = _configured_structlog()
    if structlog is not None:
        with contextlib.suppress(Exception):
            say = getattr(structlog.get_logger(NAME), logging.getLevelName(level).lower())
            say(event, logger=NAME, **values)
            return
    if LOGGER.isEnabledFor(level):
        _of_our_own().log(level, event, **values)


def _configured_structlog() -> ModuleType | None:
    """Return structlog if the application has configured it."""
    structlog = sys.modules.get("structlog")  # Who has configured it has imported it.
    is_configured = getattr(structlog, "is_configured", None)  # It may be half imported yet.
    return structlog if is_configured is not None and is_configured() else None


@functools.cache
def _of_our_own() -> Any:  # noqa: ANN401 - structlog's loggers are duck-typed
    import structlog  # noqa: PLC0415 - slow to import, and only for those who listen

    return structlog.wrap_logger(
        LOGGER,
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        cache_logger_on_first_use=True,
    )


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
