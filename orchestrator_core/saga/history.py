"""
The state of a saga, computed from the entries of its journal.

A fold over the entries, without side effects. The engine, recovery and every view of a saga use
the same fold, so all of them see the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import JournalDamaged, SagaError
from orchestrator_core.saga.receipts import deserialize
from orchestrator_core.saga.report import FINALIZER
from orchestrator_core.saga.states import TRANSITIONS, State
from orchestrator_core.saga.step import Outcome, Unwind
from orchestrator_core.system.deprecation import renamed_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.saga.encoding import Entry, ParsedJournal

_MAX_REFUSED = 20  #: The most lines that are not believed and are reported.

OBSERVER_STATE = "carried"  #: The name of the note with the observers' state.


@attrs.define
class StepState:
    """The state of one step on the undo stack."""

    name: str  #: Its name within the saga.
    type: str  #: The type of its receipt.
    version: int
    receipt: dict[str, Any]  #: As last journalled.
    done: bool = False
    outcome: Outcome | None = None  #: Of its undo; None before that.

    def load(self) -> Any:  # noqa: ANN401 - any registered receipt
        """
        Return the receipt object.

        Raises:
            UnknownStep: Its type is not registered, or the receipt does not fit.
        """
        return deserialize(self.type, self.version, self.receipt)


@renamed_attributes(
    add="apply",
    become="transition",
    carried="observer_state",
    epilogue="finalizer",
    request="end_request",
    told="report",
)
@attrs.define
class History:
    """The state of a saga, and the steps that led to it."""

    saga_id: str = ""
    begun_at: str = ""
    labels: dict[str, Any] = attrs.field(factory=dict)
    state: State = State.RUNNING
    stack: list[StepState] = attrs.field(factory=list)
    notes: dict[str, dict[str, Any]] = attrs.field(factory=dict)  #: The last one of each name.
    end_request: Unwind | None = None  #: The reason of a requested end.
    why: Unwind | None = None  #: Why the saga unwinds, or was unwound.
    tries: int = 0  #: The number of unwindings that got stuck.
    retry_at: float = 0.0  #: When a STUCK saga is retried, in seconds since 1970.
    failures: dict[str, str] = attrs.field(factory=dict)  #: Of the last unwinding, by step.
    finalizer: Outcome | None = None  #: Of a finalizer that was abandoned.
    report: dict[str, Any] | None = None  #: Of the unwinding; None before the saga is closed.
    closed_at: str = ""
    refused: list[str] = attrs.field(factory=list)  #: Lines that no release writes in their place.

    @property
    def observer_state(self) -> dict[str, Any]:
        """What the observers of the saga's begin have stored for the observers of its end."""
        return self.notes.get(OBSERVER_STATE, {})

    @property
    def is_undone(self) -> bool:
        """Whether every step has an outcome, so that only the finalizer may be missing."""
        return all(frame.outcome is not None for frame in self.stack)

    def frame(self, kind: str) -> StepState | None:
        """Return the state of the first step with that receipt type; None if there is none."""
        return next((frame for frame in self.stack if frame.type == kind), None)

    def apply(self, entry: Entry) -> None:
        """Apply one more entry, by the method that is named after its kind."""
        apply = getattr(self, f"_apply_{entry.kind}", None)
        if apply is not None:  # A kind of a newer release changes nothing that is held.
            apply(entry.data)

    def extend(self, entries: Iterable[Entry]) -> None:
        """
        Apply entries of a journal.

        Raises:
            JournalDamaged: An entry cannot follow those before it.
        """
        kind = ""
        try:
            for entry in entries:
                kind = entry.kind
                self.apply(entry)
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise JournalDamaged(
                f"saga {self.saga_id!r}: a {kind!r} line does not fit: {error!r}"
            ) from error

    def transition(self, state: State) -> None:
        """
        Change the state.

        Raises:
            JournalDamaged: The transition is not allowed.
        """
        if state not in TRANSITIONS[self.state]:
            raise JournalDamaged(
                f"saga {self.saga_id!r} cannot go from {self.state.value} to {state.value}"
            )
        self.state = state

    def _step(self, data: dict[str, Any]) -> StepState:
        # By name, not by index: a rebuilt journal may lack an entry.
        return {frame.name: frame for frame in self.stack}[data["step"]]

    def _refuse(self, kind: str, data: dict[str, Any]) -> None:
        """Ignore a line that has a correct checksum, and that this library did not write."""
        text = (
            f"a line {kind!r} of step {data['step']!r:.60} after {self.state.value}: not believed"
        )
        if len(self.refused) < _MAX_REFUSED:
            self.refused.append(text)

    # --- one method for each kind of entry ------------------------------------------------

    def _apply_begin(self, data: dict[str, Any]) -> None:
        self.saga_id = data["saga"]
        self.begun_at = data.get("at", "")
        self.labels = data.get("labels", {})

    def _apply_intent(self, data: dict[str, Any]) -> None:
        if self.state is not State.RUNNING:
            self._refuse("intent", data)
            return
        self.stack.append(StepState(data["step"], data["type"], data["version"], data["receipt"]))

    def _apply_done(self, data: dict[str, Any]) -> None:
        frame = self._step(data)
        if self.state is not State.RUNNING:
            self._refuse("done", data)
            return
        frame.done = True
        frame.receipt = data.get("receipt", frame.receipt)

    def _apply_commit(self, _data: dict[str, Any]) -> None:
        self.transition(State.COMMITTED)

    def _apply_note(self, data: dict[str, Any]) -> None:
        self.notes[data["name"]] = data["value"]

    def _apply_request(self, data: dict[str, Any]) -> None:
        if self.end_request is None:  # The first one wins.
            self.end_request = msgspec.convert(data["why"], Unwind)

    def _apply_unwind(self, data: dict[str, Any]) -> None:
        self.transition(State.UNWINDING)
        self.why = self.why or msgspec.convert(data["why"], Unwind)

    def _apply_undone(self, data: dict[str, Any]) -> None:
        outcome = msgspec.convert(data["outcome"], Outcome)
        if data["step"] == FINALIZER and self.state is State.STUCK and self.is_undone:
            self.finalizer = outcome
        elif self.state in (State.UNWINDING, State.STUCK):
            self._step(data).outcome = outcome
        else:
            self._refuse("undone", data)

    def _apply_remember(self, data: dict[str, Any]) -> None:
        """Add what a failed undo has found. Nothing that the receipt has already changes."""
        if self.state not in (State.UNWINDING, State.STUCK):
            self._refuse("remember", data)
            return
        frame = self._step(data)
        known = {name: value for name, value in frame.receipt.items() if value}
        frame.receipt = {**frame.receipt, **data["receipt"], **known}

    def _apply_stuck(self, data: dict[str, Any]) -> None:
        self.transition(State.STUCK)
        self.tries = data["tries"]
        self.retry_at = data["retry_at"]
        self.failures = data["failures"]

    def _apply_close(self, data: dict[str, Any]) -> None:
        self.transition(State.CLOSED)
        self.report = data["report"]
        self.closed_at = data.get("at", "")


def load_history(reading: ParsedJournal, saga_id: str) -> History:
    """
    Return the history of *saga_id* from its journal.

    Raises:
        JournalDamaged: A line is damaged, an intent is missing, or entries contradict each other.
        SagaError: The journal is that of another saga.
    """
    if reading.damaged:
        raise JournalDamaged(f"journal of saga {saga_id!r}: line {reading.damaged[0]} is damaged")
    first, intents = reading.entries[:1], reading.entries[1:]
    # A journal gets its name when its first lines are complete.
    if not first or first[0].kind != "begin":
        raise JournalDamaged(f"journal of saga {saga_id!r}: its first line is gone")
    begin = first[0].data
    if begin.get("saga") != saga_id:
        raise SagaError(f"the journal of saga {saga_id!r} is that of {begin.get('saga')!r}")
    planned = list(begin.get("steps", ()))
    if planned != [entry.data.get("step") for entry in intents[: len(planned)]]:
        raise JournalDamaged(f"journal of saga {saga_id!r}: not all intents are there")
    return fold(reading.entries)


def fold(entries: Iterable[Entry]) -> History:
    """
    Return the history of *entries*.

    Raises:
        JournalDamaged: The entries contradict each other.
    """
    history = History()
    history.extend(entries)
    return history
