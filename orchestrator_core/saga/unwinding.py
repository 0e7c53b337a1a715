"""
Undo a stack of steps from its top to its bottom, then retry the failed undos once.

- A failing undo never stops the others.
- An interrupt waits until the end, so that no saga is left half unwound.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import msgspec

from orchestrator_core.exceptions import UndoFailed
from orchestrator_core.saga.report import FINALIZER, StepReport
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.saga.engine import Finalizer, Saga
    from orchestrator_core.saga.history import History, StepState
    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Outcome, Unwind


@attrs.define
class Unwinding:
    """One unwinding of the stack of *saga*, which records each undo."""

    saga: Saga
    stack: Sequence[StepState]
    why: Unwind
    reports: dict[int, StepReport] = attrs.field(factory=dict)
    errors: dict[int, BaseException] = attrs.field(factory=dict)
    interrupt: BaseException | None = None  #: The first one; raised at the end.
    finalizer_error: BaseException | None = None

    def undo_all(self) -> tuple[StepReport, ...]:
        """Undo every step that has no outcome yet; return all reports, the last step first."""
        order = range(len(self.stack) - 1, -1, -1)
        for index in order:
            self._undo(index, attempt=1)
        # A failed undo may have needed disk space, or the undo of a step below it. A resource
        # that could not be inspected is not asked again at once.
        for index in order:
            error = self.errors.get(index)
            if error is not None and getattr(error, "retry_at_once", True):
                self._undo(index, attempt=2)
        return tuple(self.reports[index] for index in order)

    def run_finalizer(
        self, finalizer: Finalizer, report: UnwindReport, history: History
    ) -> UnwindReport:
        """Run the finalizer; if it fails, the report names it as one more step."""
        abandoned = history.finalizer
        if abandoned is not None:
            result, detail = abandoned.result.value, abandoned.detail
            step = StepReport(FINALIZER, result, attempts=0, detail=detail)
            return attrs.evolve(report, steps=(*report.steps, step))
        try:
            finalizer(report, history)
        except BaseException as error:  # noqa: BLE001 - see the module's promise
            self.finalizer_error = error
            failed = self._failed(FINALIZER, error)
            return attrs.evolve(report, steps=(*report.steps, failed))
        return report

    def undo_errors(self) -> list[UndoFailed]:
        """Return the errors of the failed undos, each with its cause."""
        failed = [
            (self.stack[index].name, error)
            for index, error in sorted(self.errors.items(), reverse=True)
        ]
        if self.finalizer_error is not None:
            failed.append((FINALIZER, self.finalizer_error))
        return [_undo_failed(self.saga.saga_id, step, error) for step, error in failed]

    def _undo(self, index: int, *, attempt: int) -> None:
        frame = self.stack[index]
        start = time.monotonic()
        try:
            report = self._run_undo(frame, attempt, start)
        except BaseException as error:  # noqa: BLE001 - see the module's promise
            self.errors[index] = error
            self.reports[index] = self._failed(frame.name, error, attempt, ms_since(start))
        else:
            self.errors.pop(index, None)
            self.reports[index] = report

    def _run_undo(self, frame: StepState, attempt: int, start: float) -> StepReport:
        if frame.outcome is not None:  # By an earlier unwinding, which did not finish.
            return _report(frame, frame.outcome, attempts=0)
        outcome = self.saga.step_of(frame).undo(frame.load(), self.why)
        report = _report(frame, outcome, attempts=attempt, duration_ms=ms_since(start))
        self.saga.on_undone(outcome, report)
        return report

    def _failed(
        self, step: str, error: BaseException, attempt: int = 1, duration_ms: float = 0.0
    ) -> StepReport:
        if self.interrupt is None and not isinstance(error, Exception):
            self.interrupt = error
        self.saga.on_undo_failed(step, error)
        # A step may store any object there; the journal needs text.
        leaked = [str(item) for item in getattr(error, "leaked", ())]
        detail = msgspec.to_builtins(getattr(error, "undo_detail", {}), enc_hook=str)
        return StepReport(
            step,
            "failed",
            duration_ms=duration_ms,
            attempts=attempt,
            detail={**detail, "leaked": leaked} if leaked else {**detail},
            error=format_error(error),
        )


def _undo_failed(saga_id: str, step: str, error: BaseException) -> UndoFailed:
    failed = UndoFailed(saga_id, step, error)
    failed.__cause__ = error
    return failed


def _report(
    frame: StepState, outcome: Outcome, *, attempts: int, duration_ms: float = 0.0
) -> StepReport:
    return StepReport(
        frame.name,
        outcome.result.value,
        duration_ms=duration_ms,
        attempts=attempts,
        detail=outcome.detail,
    )


def format_error(error: BaseException) -> str:
    """Return an error as one line, with its type."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
