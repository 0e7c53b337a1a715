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
from orchestrator_core.saga import verification
from orchestrator_core.saga.report import FINALIZER, REFUSED_LINES, StepReport
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from orchestrator_core.saga.engine import Finalizer, Saga
    from orchestrator_core.saga.history import StepState
    from orchestrator_core.saga.report import UnwindReport
    from orchestrator_core.saga.step import Outcome, Unwind


@attrs.define
class Unwinding:
    """One unwinding of *saga*, which records each undo."""

    saga: Saga
    why: Unwind
    reports: dict[str, StepReport] = attrs.field(factory=dict)  #: The last step first.
    errors: dict[str, BaseException] = attrs.field(factory=dict)  #: Of failed undos, by step.
    interrupt: BaseException | None = None  #: The first one; raised at the end.

    @property
    def steps(self) -> tuple[StepReport, ...]:
        """The reports so far, the last step first, and one for lines that are not believed."""
        refused = self.saga.history.refused
        lines = StepReport(REFUSED_LINES, "left", 0.0, 0, {"kept": "; ".join(refused)})
        return (*self.reports.values(), *([lines] if refused else ()))

    @property
    def undo_errors(self) -> list[UndoFailed]:
        """The errors of the failed undos, each with its cause, in the order of the reports."""
        failed = [name for name in self.reports if name in self.errors]
        return [UndoFailed(self.saga.saga_id, name, self.errors[name]) for name in failed]

    @property
    def has_failed(self) -> bool:
        """Whether a step has failed. One that was only interrupted has not: it is to go on."""
        return any(isinstance(error, Exception) for error in self.errors.values())

    def undo_all(self) -> None:
        """Undo every step that has no outcome yet, the last step first."""
        frames = self.saga.history.stack[::-1]
        for frame in frames:
            self._undo(frame, attempt=1)
        # A failed undo may have needed disk space, or the undo of a step below it. A resource
        # that could not be inspected is not asked again at once.
        for frame in frames:
            error = self.errors.get(frame.name)
            if error is not None and getattr(error, "retry_at_once", True):
                self._undo(frame, attempt=2)

    def run_finalizer(self, finalizer: Finalizer, report: UnwindReport) -> None:
        """
        Run the finalizer; if it fails, or was abandoned, it is reported as one more step.

        An interrupted finalizer is run once more: it is idempotent.
        """
        history = self.saga.history
        if history.finalizer is not None:
            self._report(FINALIZER, history.finalizer)
            return
        for attempt in (1, 2):
            try:
                finalizer(report, history)
            except BaseException as error:  # noqa: BLE001 - see the module's promise
                self._fail(FINALIZER, error, attempt)
                if isinstance(error, Exception):
                    return
            else:
                self.reports.pop(FINALIZER, None)
                self.errors.pop(FINALIZER, None)
                return

    def _undo(self, frame: StepState, *, attempt: int) -> None:
        start = time.monotonic()
        try:
            if frame.outcome is not None:  # By an earlier unwinding, which did not finish.
                self._report(frame.name, frame.outcome)
            else:
                step = self.saga.step_of(frame)
                outcome = verification.undo(step, frame, self.saga.history, self.why)
                self._report(frame.name, outcome, attempt, ms_since(start))
                self.saga.on_undone(outcome, self.reports[frame.name])
            self.errors.pop(frame.name, None)
        except BaseException as error:  # noqa: BLE001 - see the module's promise
            self._fail(frame.name, error, attempt, ms_since(start))

    def _report(
        self, step: str, outcome: Outcome, attempts: int = 0, duration_ms: float = 0.0
    ) -> None:
        result = outcome.result.value
        self.reports[step] = StepReport(step, result, duration_ms, attempts, outcome.detail)

    def _fail(
        self, step: str, error: BaseException, attempts: int = 1, duration_ms: float = 0.0
    ) -> None:
        if self.interrupt is None and not isinstance(error, Exception):
            self.interrupt = error
        if isinstance(error, Exception):
            self.saga.on_undo_failed(step, error)
        # A step may store any object there; the journal needs text.
        detail = msgspec.to_builtins(getattr(error, "undo_detail", {}), enc_hook=str)
        leaked = [str(item) for item in getattr(error, "leaked", ())]
        detail = {**detail, "leaked": leaked} if leaked else {**detail}
        self.errors[step] = error
        self.reports[step] = StepReport(
            step, "failed", duration_ms, attempts, detail, format_error(error)
        )


def format_error(error: BaseException) -> str:
    """Return an error as one line, with its type."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
