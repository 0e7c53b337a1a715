"""
The saga engine: run steps, keep the undo stack, unwind the stack exactly once.

:class:`Saga` is one saga, owned by the process that holds the lock on its journal:

1. every step is *planned*, and the journal with all intents is made durable;
2. the steps are *done*, one after another;
3. the saga is *committed*, durably; the journal keeps the undo stack;
4. the saga is *unwound*: the reason is made durable, then the steps are undone in reverse
   order, by the owner at that time.

An exception in 2 or 3 leads to 4. The pattern is that of Garcia-Molina and Salem, *Sagas*,
SIGMOD 1987.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import attrs

from orchestrator_core.exceptions import (
    CouldNotAsk,
    SagaError,
    StorageError,
    UndoFailed,
    UnknownStep,
)
from orchestrator_core.saga import verification
from orchestrator_core.saga.encoding import make_entry
from orchestrator_core.saga.history import OBSERVER_STATE, fold
from orchestrator_core.saga.observer import Observer, safe
from orchestrator_core.saga.planning import intent_entry, opening_entries, plan, step_name
from orchestrator_core.saga.receipts import name_of
from orchestrator_core.saga.report import FINALIZER, StepReport, UnwindReport
from orchestrator_core.saga.states import TRANSITIONS, State
from orchestrator_core.saga.step import Context, Outcome, Result, Unwind
from orchestrator_core.saga.unwinding import Unwinding, format_error
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.deprecation import renamed_attributes, warn_renamed
from orchestrator_core.system.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator_core.saga.encoding import Entry
    from orchestrator_core.saga.history import History, StepState
    from orchestrator_core.saga.journal import Journal
    from orchestrator_core.saga.step import Step
    from orchestrator_core.saga.store import JournalStore

    Finalizer = Callable[[UnwindReport, History], None]

_MAX_BACKOFF_EXPONENT = 12  #: A stuck saga is retried after 2**n seconds: from 1 s to 4096 s.


@renamed_attributes(then="add_step", attach="chain_undo_errors", retire="archive")
class Saga:
    """
    A saga that this process owns.

    As a context manager it releases the journal at the end. A block that is left before
    :meth:`commit`, by an exception or otherwise, unwinds the saga::

        with Saga.begin(journals, "build-42", [Worktree(), Port()]) as saga:
            saga.run()
            saga.commit()

    The exception reaches the caller unchanged, interrupts included. If steps could not be
    undone, its ``__cause__`` is an :class:`ExceptionGroup` of
    :class:`~orchestrator_core.exceptions.UndoFailed`.
    """

    def __init__(
        self,
        journals: JournalStore,
        journal: Journal,
        history: History,
        steps: Mapping[str, Step[Any]],
        *,
        finalizer: Finalizer | None = None,
        observer: Observer | None = None,
        epilogue: Finalizer | None = None,  # The old name of *finalizer*.
    ) -> None:
        """
        Resume a saga whose journal this process owns, as recovery does.

        *finalizer* is called with the report and the saga's history after the last undo,
        before the saga closes. It must be idempotent. If it raises, the saga is STUCK.
        """
        if epilogue is not None:
            warn_renamed("Saga(epilogue=)", "finalizer=")
            finalizer = epilogue
        self._journals = journals
        self._journal = journal
        self._steps = steps
        self._finalizer = finalizer
        self._observer = safe(observer)
        self._named: dict[str, Step[Any]] = {}
        self._owned_since_begin = False
        self.history = history
        self.undo_errors: list[UndoFailed] = []  #: Of the last unwinding.
        self.report: UnwindReport | None = None  #: Of the last unwinding by this owner.

    @classmethod
    def begin(
        cls,
        journals: JournalStore,
        saga_id: str,
        steps: Sequence[Step[Any]],
        *,
        values: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
        finalizer: Finalizer | None = None,
        observer: Observer | None = None,
        epilogue: Finalizer | None = None,  # The old name of *finalizer*.
    ) -> Self:
        """
        Plan all *steps* and make their intents durable. No resource is taken yet.

        *values* are passed to the steps' ``plan``; the journal keeps *labels*, for users and
        for views.

        Raises:
            InvalidId: The id is not safe in a file name.
            SagaExists: The id was used before.
            StorageError: The journal could not be written; there is none.
            Exception: A step refused its plan; there is no journal.
        """
        if epilogue is not None:
            warn_renamed("Saga.begin(epilogue=)", "finalizer=")
            finalizer = epilogue
        receipts = plan(saga_id, steps, values or {})
        entries = opening_entries(saga_id, labels, receipts)
        history = fold(entries)
        journal = journals.create(saga_id, entries)
        saga = cls(journals, journal, history, {}, finalizer=finalizer, observer=observer)
        saga._owned_since_begin = True
        saga._named = dict(zip(receipts, steps, strict=True))
        saga._observer.saga_begun(saga_id, saga.history.labels)
        state = saga._observer.state_to_persist(saga_id)
        if state:
            saga._write_best_effort(make_entry("note", name=OBSERVER_STATE, value=state))
        return saga

    @property
    def saga_id(self) -> str:
        """The id. It never changes."""
        return self.history.saga_id

    @property
    def state(self) -> State:
        """The state of the saga."""
        return self.history.state

    def receipt(self, cls: type[Any]) -> Any:  # noqa: ANN401 - any registered receipt
        """Return the latest receipt of a class; KeyError if the saga has no such step."""
        frame = self.history.frame(name_of(cls))
        if frame is None:
            raise KeyError(f"saga {self.saga_id!r} has no step {name_of(cls)!r}")
        return frame.load()

    # --- forward -------------------------------------------------------------------------

    def run(self) -> None:
        """
        Do every step that has not been done, in order.

        Raises:
            SagaError: The saga is not RUNNING.
            Exception: The error of a step. The saga still has to be unwound, as leaving its
                ``with`` block does.
        """
        self._require_state(State.RUNNING)
        for frame in self.history.stack:
            if not frame.done:
                self._do(frame)

    def add_step(self, step: Step[Any], **values: Any) -> None:  # noqa: ANN401 - JSON values
        """
        Plan one more step, which may depend on the receipts of the steps before it, and do it.

        The intent costs one more fsync. ``ctx.receipts`` holds the current receipts.
        """
        self._require_state(State.RUNNING)
        name = step_name(step)
        receipts = {frame.name: frame.load() for frame in self.history.stack}
        if name in receipts:
            raise SagaError(f"saga {self.saga_id!r} already has a step {name!r}")
        receipt = step.plan(Context(self.saga_id, values, receipts))
        self._named[name] = step
        self._write(intent_entry(name, receipt), durable=True)
        self.run()

    def _do(self, frame: StepState) -> None:
        start = time.monotonic()
        planned = frame.load()
        try:
            held = self.step_of(frame).do(planned)
        except BaseException as error:
            self._observer.step_failed(self.saga_id, frame.name, error)
            raise
        duration_ms = ms_since(start)
        changed = {} if held == planned else {"receipt": held}
        self._write(make_entry("done", step=frame.name, ms=duration_ms, **changed))
        self._observer.step_done(self.saga_id, frame.name, duration_ms)

    def step_of(self, frame: StepState) -> Step[Any]:
        """Return the step that a state on the stack belongs to."""
        step = self._named.get(frame.name) or self._steps.get(frame.type)
        if step is None:
            raise UnknownStep(f"step {frame.name!r} of type {frame.type!r} is not registered")
        return step

    def commit(self) -> None:
        """
        Record durably that all steps are done, and keep the undo stack.

        Once this returns, the saga outlives the process: only an unwinding ends it.

        Raises:
            SagaError: A step has not been done, or the saga is not RUNNING.
            StorageError: The commit was not recorded; the saga is still RUNNING.
        """
        self._require_state(State.RUNNING)
        missing = [frame.name for frame in self.history.stack if not frame.done]
        if missing:
            raise SagaError(f"saga {self.saga_id!r} cannot commit: {missing} not done")
        self._write(make_entry("commit"), durable=True)
        self._observer.saga_committed(self.saga_id)

    def note(self, name: str, *, durable: bool = False, **value: Any) -> None:  # noqa: ANN401
        """Store a fact in the journal. The last value of a *name* counts."""
        self._write(make_entry("note", name=name, value=value), durable=durable)

    def request_end(self, why: Unwind) -> bool:
        """
        Record durably that the saga is to end, and leave the unwinding to another process.

        For a caller that the unwinding would end. The first request wins. Return False if an
        end was requested, or begun, before.
        """
        if self.history.end_request is not None or State.UNWINDING not in TRANSITIONS[self.state]:
            return False
        self._write(make_entry("request", why=why), durable=True)
        self._observer.end_requested(self.saga_id, why)
        return True

    # --- backward --------------------------------------------------------------------------

    def unwind(self, why: Unwind) -> UnwindReport:
        """
        Undo all steps in reverse order, and close the saga.

        - A failing undo never stops the others. It is retried after them; if it fails again,
          the saga is STUCK, and can be unwound again later.
        - The reason of the first unwinding stays. A step that was undone is not undone again.
        - An interrupt is raised at the end. It is no failure: a step that was interrupted twice
          leaves the saga UNWINDING, for the next unwinding.
        - On a full disk the unwinding goes on. The next unwinding repeats an undo that was not
          recorded, and finds the resource absent.
        """
        start = time.monotonic()
        if self.state is State.CLOSED:
            raise SagaError(f"saga {self.saga_id!r} is closed")
        if self.state is not State.UNWINDING:
            self._write_best_effort(make_entry("unwind", why=why), durable=True)
        reason = self.history.why or why
        if not self._owned_since_begin:
            history = self.history
            self._observer.saga_resumed(self.saga_id, history.labels, history.observer_state)
        self._observer.unwinding_begun(self.saga_id, reason)

        unwinding = Unwinding(self, reason)
        unwinding.undo_all()
        report = UnwindReport(
            self.saga_id, reason, unwinding.steps, closed=True, duration_ms=ms_since(start)
        )
        if not unwinding.errors and self._finalizer is not None:
            unwinding.run_finalizer(self._finalizer, report)
            report = attrs.evolve(report, steps=unwinding.steps)
        self.undo_errors = unwinding.undo_errors
        if unwinding.has_failed:
            self.report = self._mark_stuck(report)
        elif unwinding.errors:  # Of interrupts: the next unwinding goes on.
            self.report = attrs.evolve(report, closed=False)
        else:
            self.report = self._close(report)
        if unwinding.interrupt is not None:
            raise unwinding.interrupt
        return self.report

    def on_undone(self, outcome: Outcome, report: StepReport) -> None:
        """Record the outcome of a step's undo."""
        self._write_best_effort(
            make_entry("undone", step=report.step, outcome=outcome, ms=report.duration_ms)
        )
        self._observer.step_undone(self.saga_id, report)

    def on_undo_failed(self, step: str, error: BaseException) -> None:
        """Record what the next undo has to know, and notify the observer of an undo that raised."""
        remember = getattr(error, "remember", None) or {}
        known = next((each.receipt for each in self.history.stack if each.name == step), {})
        if any(not known.get(name) for name in remember):
            self._write_best_effort(make_entry("remember", step=step, receipt=remember))
        self._observer.undo_failed(self.saga_id, step, error)

    def _close(self, report: UnwindReport) -> UnwindReport:
        entry = make_entry("close", report=report)
        # After an error recovery closes the saga: it finds no step to undo.
        with contextlib.suppress(StorageError):
            self._journal.append(entry, durable=True)
            self._journals.archive(self._journal)
        self.history.apply(entry)
        self._observer.saga_closed(self.saga_id, report)
        return report

    def _mark_stuck(self, report: UnwindReport) -> UnwindReport:
        tries = self.history.tries + 1
        retry_at = time.time() + 2 ** min(tries - 1, _MAX_BACKOFF_EXPONENT)
        failures = {step.step: step.error for step in report.failed}
        self._write_best_effort(
            make_entry("stuck", tries=tries, retry_at=retry_at, failures=failures)
        )
        report = attrs.evolve(report, closed=False, retry_at=retry_at)
        self._observer.saga_stuck(self.saga_id, report)
        return report

    def abandon(self, step: str, *, by: str, reason: str) -> None:
        """
        Give up a step that cannot be undone. The resource may remain.

        The journal keeps *by* and *reason*. The next unwinding skips the step. A saga may be
        STUCK by its finalizer, too, which is given up by the name ``epilogue``.

        Raises:
            SagaError: The saga is not STUCK, or not by such a step.
        """
        self._require_state(State.STUCK)
        stuck_by = {frame.name for frame in self.history.stack if frame.outcome is None}
        if step not in (stuck_by or {FINALIZER}):
            raise SagaError(f"saga {self.saga_id!r} is not stuck by a step {step!r}")
        outcome = Outcome(Result.ABANDONED, {"by": by, "reason": reason})
        self._write(make_entry("undone", step=step, outcome=outcome), durable=True)
        self._observer.step_abandoned(self.saga_id, step, by, reason)

    def probe(self) -> dict[str, Presence]:
        """Return for every step whether its resource is there, and the saga's. Changes nothing."""
        return {frame.name: self._probe(frame) for frame in self.history.stack}

    def _probe(self, frame: StepState) -> Presence:
        try:
            return verification.probe(self.step_of(frame), frame, self.history)
        except (UnknownStep, CouldNotAsk, StorageError, OSError):
            return Presence.UNKNOWN

    def _require_state(self, state: State) -> None:
        if self.state is not state:
            raise SagaError(f"saga {self.saga_id!r} is {self.state.value}, not {state.value}")

    # --- the journal ------------------------------------------------------------------------

    def _write(self, entry: Entry, *, durable: bool = False) -> None:
        self._journal.append(entry, durable=durable)
        self.history.apply(entry)

    def _write_best_effort(self, entry: Entry, *, durable: bool = False) -> None:
        """Record *entry*, now or with the next one: an undo must not depend on disk space."""
        self._journal.append_or_queue(entry, durable=durable)
        self.history.apply(entry)

    def chain_undo_errors(self, error: BaseException) -> None:
        """Set the errors of failed undos as the ``__cause__`` of *error*."""
        if self.undo_errors:
            group = self._not_undone()
            group.__cause__ = error.__cause__
            error.__cause__ = group

    def _not_undone(self) -> ExceptionGroup[UndoFailed]:
        return ExceptionGroup(f"saga {self.saga_id!r}: not everything was undone", self.undo_errors)

    def archive(self) -> None:
        """Move the journal of a closed saga to the closed ones, as a crash may have prevented."""
        self._journals.archive(self._journal)

    def release(self) -> None:
        """Release the journal. Idempotent."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            # A process that was forked inside the block does not own the saga.
            if self._owned_since_begin and self.state is State.RUNNING and self._journal.is_owned:
                self._roll_back(error)
        finally:
            self.release()

    def _roll_back(self, error: BaseException | None) -> None:
        kind = type(error).__name__ if error is not None else ""
        message = format_error(error) if error is not None else "the block ended without a commit"
        try:
            self.unwind(Unwind.rollback(message, error=kind))
        except BaseException as interrupt:
            self.chain_undo_errors(interrupt)
            raise
        if error is not None:
            self.chain_undo_errors(error)
        elif self.undo_errors:
            raise self._not_undone()
