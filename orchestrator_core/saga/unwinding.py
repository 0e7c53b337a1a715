"""
Undo a stack: from its top to its bottom, then once more what failed.

One failing undo never stops the rest, and an interrupt waits until the end: a
half-unwound saga is the one thing nobody must be left with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import msgspec

from orchestrator_core.exceptions import UndoFailed
from orchestrator_core.saga.report import FINALIZER, StepReport
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator_core.saga.engine import Finalizer
    from orchestrator_core.saga.history import History, StepState
    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Outcome, Step, Unwind


class UndoListener(Protocol):
    """Who is told of each undo as it comes to something."""

    def undone(self, outcome: Outcome, report: StepReport) -> None:
        """A step's undo succeeded."""
        ...

    def failed(self, step: str, error: BaseException) -> None:
        """A step's undo raised."""
        ...


@attrs.define
class Unwinding:
    """One unwinding of one stack."""

    stack: Sequence[StepState]
    step_of: Callable[[StepState], Step[Any]]
    why: Unwind
    listener: UndoListener
    reports: dict[int, StepReport] = attrs.field(factory=dict)
    errors: dict[int, BaseException] = attrs.field(factory=dict)
    interrupt: BaseException | None = None  #: The first that came. It waits until the end.
    finalizer_error: BaseException | None = None

    def undo_all(self) -> tuple[StepReport, ...]:
        """Undo every step that has no outcome yet; return all reports, top of the stack first."""
        order = range(len(self.stack) - 1, -1, -1)
        for index in order:
            self._undo(index, attempt=1)
        # What failed may have leant on something that is gone by now, or wanted
        # disk space. Who could not be asked a moment ago is not asked again.
        for index in order:
            error = self.errors.get(index)
            if error is not None and getattr(error, "retry_at_once", True):
                self._undo(index, attempt=2)
        return tuple(self.reports[index] for index in order)

    def run_finalizer(
        self, finalizer: Finalizer, report: UnwindReport, history: History
    ) -> UnwindReport:
        """Run what comes after the last undo; failing, it is reported as a step of its own."""
        given_up = history.finalizer
        if given_up is not None:
            said = StepReport(FINALIZER, given_up.result.value, attempts=0, detail=given_up.detail)
            return attrs.evolve(report, steps=(*report.steps, said))
        try:
            finalizer(report, history)
        except BaseException as error:  # noqa: BLE001 - see the module's promise
            self.finalizer_error = error
            failed = self._failed(FINALIZER, error)
            return attrs.evolve(report, steps=(*report.steps, failed))
        return report

    def undo_errors(self, saga_id: str) -> list[UndoFailed]:
        """Return what kept steps from being undone, as errors with their causes."""
        failed = [
            (self.stack[index].name, error)
            for index, error in sorted(self.errors.items(), reverse=True)
        ]
        if self.finalizer_error is not None:
            failed.append((FINALIZER, self.finalizer_error))
        return [_undo_failed(saga_id, step, error) for step, error in failed]

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
        if frame.outcome is not None:  # Undone before, by an unwinding that was interrupted.
            return _report(frame, frame.outcome, attempts=0)
        outcome = self.step_of(frame).undo(frame.load(), self.why)
        report = _report(frame, outcome, attempts=attempt, duration_ms=ms_since(start))
        self.listener.undone(outcome, report)
        return report

    def _failed(
        self, step: str, error: BaseException, attempt: int = 1, duration_ms: float = 0.0
    ) -> StepReport:
        if self.interrupt is None and not isinstance(error, Exception):
            self.interrupt = error
        self.listener.failed(step, error)
        # Whatever a step has put there, it is to be written down.
        leaked = [str(one) for one in getattr(error, "leaked", ())]
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
    """Return an error in one line, with its kind."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
