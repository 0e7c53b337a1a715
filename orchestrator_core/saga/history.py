"""
What a journal's lines add up to: the saga's state, its undo stack, its end.

Pure: lines go in, one value comes out. The engine, recovery and every view of
a saga read the same history, so none of them can see another story.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import JournalDamaged, SagaError
from orchestrator_core.saga.receipts import deserialize
from orchestrator_core.saga.report import FINALIZER, UnwindReport
from orchestrator_core.saga.states import State, allowed
from orchestrator_core.saga.step import Outcome, Unwind
from orchestrator_core.system.deprecation import renamed_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator_core.saga.encoding import Entry, ParsedJournal

OBSERVER_STATE = "carried"  #: The note of what observers have wanted kept.


@attrs.define
class StepState:
    """One step on the undo stack."""

    name: str  #: Its name within the saga.
    type: str  #: The type of its receipt.
    version: int
    receipt: dict[str, Any]  #: As it was last journalled.
    done: bool = False
    outcome: Outcome | None = None  #: What its undo came to, once it has.
    loaded: Any = attrs.field(default=None, eq=False, repr=False)  #: The receipt, once built.

    def load(self) -> Any:  # noqa: ANN401 - any registered receipt
        """
        Build the receipt.

        Raises:
            UnknownStep: Nobody here knows it.
        """
        if self.loaded is None:
            self.loaded = deserialize(self.type, self.version, self.receipt)
        return self.loaded


@attrs.define
class History:
    """A saga's past."""

    saga_id: str = ""
    begun_at: str = ""
    labels: dict[str, Any] = attrs.field(factory=dict)
    state: State = State.RUNNING
    stack: list[StepState] = attrs.field(factory=list)
    notes: dict[str, dict[str, Any]] = attrs.field(factory=dict)  #: The last one of each name.
    end_request: Unwind | None = None  #: An end that was asked for, and not begun.
    why: Unwind | None = None  #: Why it unwinds, or was unwound.
    tries: int = 0  #: How often unwinding got stuck.
    retry_at: float = 0.0  #: When a stuck one is to be tried again, seconds since 1970.
    failures: dict[str, str] = attrs.field(factory=dict)  #: Of the last try, by step.
    finalizer: Outcome | None = None  #: What came of the finalizer, if it was given up.
    raw_report: dict[str, Any] | UnwindReport | None = None  #: The same as *report*, as it came.
    closed_at: str = ""

    if not TYPE_CHECKING:
        __getattr__ = renamed_attributes(
            "History",
            {
                "add": "apply",
                "become": "transition",
                "carried": "observer_state",
                "epilogue": "finalizer",
                "request": "end_request",
                "told": "raw_report",
            },
        )

    @property
    def observer_state(self) -> dict[str, Any]:
        """What the observers of its beginning have wanted kept for those of its end."""
        return self.notes.get(OBSERVER_STATE, {})

    @property
    def report(self) -> dict[str, Any] | None:
        """What the unwinding came to, once it is closed."""
        report = self.raw_report
        return report.to_dict() if isinstance(report, UnwindReport) else report

    @property
    def is_undone(self) -> bool:
        """Whether every step has an outcome: only the finalizer may be missing."""
        return all(frame.outcome is not None for frame in self.stack)

    def frame(self, kind: str) -> StepState | None:
        """Return the frame of the first step with that type of receipt."""
        return next((frame for frame in self.stack if frame.type == kind), None)

    def apply(self, entry: Entry) -> None:
        """Take one more line into account."""
        reader = _APPLY.get(entry.kind)
        if reader is not None:  # A newer release may write more kinds; none changes what it holds.
            reader(self, entry.data)

    def extend(self, entries: Iterable[Entry]) -> None:
        """
        Take lines from a journal into account.

        Raises:
            JournalDamaged: One cannot follow those before it.
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
        Change state.

        Raises:
            JournalDamaged: No saga goes from this state to that one.
        """
        if not allowed(self.state, state):
            raise JournalDamaged(
                f"saga {self.saga_id!r} cannot go from {self.state.value} to {state.value}"
            )
        self.state = state


def load_history(reading: ParsedJournal, saga_id: str) -> History:
    """
    Return the history that the journal of *saga_id* tells.

    Raises:
        JournalDamaged: It is not whole: a line does not check, the intents are not
            all there, or its lines contradict each other.
        SagaError: It is the journal of another saga.
    """
    if reading.damaged:
        raise JournalDamaged(f"journal of saga {saga_id!r}: line {reading.damaged[0]} is damaged")
    first, intents = reading.entries[:1], reading.entries[1:]
    # A journal is never seen before its first lines are whole: see the spares.
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
    Return the history that *entries* tell.

    Raises:
        JournalDamaged: They contradict each other.
    """
    history = History()
    history.extend(entries)
    return history


def _begin(history: History, data: dict[str, Any]) -> None:
    history.saga_id = data["saga"]
    history.begun_at = data.get("at", "")
    history.labels = data.get("labels", {})


def _intent(history: History, data: dict[str, Any]) -> None:
    history.stack.append(StepState(data["step"], data["type"], data["version"], data["receipt"]))


def _frame(history: History, data: dict[str, Any]) -> StepState:
    # By name, not by place: a rebuilt journal may have lost a line above.
    name = data["step"]
    for frame in history.stack:
        if frame.name == name:
            return frame
    raise KeyError(name)


def _done(history: History, data: dict[str, Any]) -> None:
    frame = _frame(history, data)
    frame.done = True
    if "receipt" in data:
        frame.receipt, frame.loaded = data["receipt"], None


def _commit(history: History, _data: dict[str, Any]) -> None:
    history.transition(State.COMMITTED)


def _note(history: History, data: dict[str, Any]) -> None:
    history.notes[data["name"]] = data["value"]


def _request(history: History, data: dict[str, Any]) -> None:
    if history.end_request is None:  # The first one wins.
        history.end_request = msgspec.convert(data["why"], Unwind)


def _unwind(history: History, data: dict[str, Any]) -> None:
    history.transition(State.UNWINDING)
    if history.why is None:
        why = data["why"]
        # The engine brings it as it is; a journal, in JSON.
        history.why = why if isinstance(why, Unwind) else msgspec.convert(why, Unwind)


def _undone(history: History, data: dict[str, Any]) -> None:
    outcome = data["outcome"]
    if not isinstance(outcome, Outcome):  # As above.
        outcome = msgspec.convert(outcome, Outcome)
    if data["step"] == FINALIZER and history.state is State.STUCK and history.is_undone:
        history.finalizer = outcome
    else:
        _frame(history, data).outcome = outcome


def _stuck(history: History, data: dict[str, Any]) -> None:
    history.transition(State.STUCK)
    history.tries = data["tries"]
    history.retry_at = data["retry_at"]
    history.failures = data["failures"]


def _close(history: History, data: dict[str, Any]) -> None:
    history.transition(State.CLOSED)
    history.raw_report = data["report"]
    history.closed_at = data.get("at", "")


_APPLY: dict[str, Callable[[History, dict[str, Any]], None]] = {
    "begin": _begin,
    "intent": _intent,
    "done": _done,
    "commit": _commit,
    "note": _note,
    "request": _request,
    "unwind": _unwind,
    "undone": _undone,
    "stuck": _stuck,
    "close": _close,
}
