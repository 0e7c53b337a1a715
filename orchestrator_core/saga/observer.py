"""
Observers: hooks that the engine calls after each event of a saga.

- Every hook of :class:`Observer` does nothing, so a subclass overrides those that it needs.
- An observer that raises changes nothing: the error is logged.
- A saga may end in another process than the one that began it. The journal keeps the state
  that observers need there: :meth:`Observer.state_to_persist`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.system.deprecation import warn_renamed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestrator_core.saga.report import StepReport, UnwindReport
    from orchestrator_core.saga.step import Unwind


_RENAMED_HOOKS = {"to_carry": "state_to_persist", "saga_taken_up": "saga_resumed"}


class Observer:
    """Hooks, all in the past tense. Durations are in milliseconds."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _RENAMED_HOOKS.items():
            if old in vars(cls):
                warn_renamed(f"Observer.{old}", f"Observer.{new}", stacklevel=2)
                setattr(cls, new, vars(cls)[old])

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """The saga's intents are durable; no resource has been taken."""

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any] | None:
        """
        Return the state that the journal keeps for the observers of the saga's end.

        JSON-safe, and without secrets. Called once, when the saga has begun.
        """

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """A step holds its resource."""

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step raised; its saga unwinds next."""

    def saga_committed(self, saga_id: str) -> None:
        """All steps are done, durably."""

    def end_requested(self, saga_id: str, why: Unwind) -> None:
        """An end was requested; another process will unwind the saga."""

    def saga_resumed(
        self, saga_id: str, labels: Mapping[str, object], observer_state: Mapping[str, Any]
    ) -> None:
        """The process is about to unwind a saga that was begun earlier, perhaps elsewhere."""

    def unwinding_begun(self, saga_id: str, why: Unwind) -> None:
        """The saga is being undone."""

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """A step's undo returned; see its result."""

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step's undo raised; the others go on, and this one is retried."""

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """Some steps could not be undone, for now."""

    def step_abandoned(self, saga_id: str, step: str, by: str, reason: str) -> None:
        """An operator gave a step up."""

    def saga_closed(self, saga_id: str, report: UnwindReport) -> None:
        """The saga is closed; nothing is held."""

    def journal_damaged(self, saga_id: str, kept: Path) -> None:
        """A damaged journal was quarantined as *kept*, and rebuilt."""


_HOOKS = [
    name for name in vars(Observer) if not name.startswith("_") and name != "state_to_persist"
]
if not TYPE_CHECKING:  # For a call of ``super()`` in a subclass that has the old names.
    for _old, _new in _RENAMED_HOOKS.items():
        setattr(Observer, _old, getattr(Observer, _new))


class _CombinedObserver(Observer):
    """Calls the hooks of several observers, and logs their errors."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        for name in _HOOKS:
            setattr(self, name, functools.partial(self._dispatch, name))

    def _dispatch(self, name: str, *args: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, name)(*args)
            except Exception as error:  # noqa: BLE001 - an observer changes nothing
                _log_failure(name, error)

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any]:
        state: dict[str, Any] = {}
        for observer in self._observers:
            try:
                # To JSON and back: a value that no journal can hold fails here.
                encoded = msgspec.json.encode(observer.state_to_persist(saga_id) or {})
                state.update(msgspec.json.decode(encoded, type=dict[str, Any]))
            except Exception as error:  # noqa: BLE001 - as above
                _log_failure("state_to_persist", error)
        return state


def _log_failure(hook: str, error: Exception) -> None:
    """Log the error of an observer's hook."""
    import logging  # noqa: PLC0415 - slow, and needed after an error only

    from orchestrator_core.system.log import emit  # noqa: PLC0415 - the same

    emit(logging.ERROR, "observer.failed", hook=hook, error=repr(error), exc_info=error)


def combine(*observers: Observer) -> Observer:
    """Return an observer that calls all *observers*; the error of one affects no other."""
    return _CombinedObserver(observers)


def safe(observer: Observer | None) -> Observer:
    """Return an observer that calls *observer*, and never raises."""
    if isinstance(observer, _CombinedObserver):
        return observer
    return _CombinedObserver([observer] if observer else [])
