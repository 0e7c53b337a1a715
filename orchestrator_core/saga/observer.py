"""
Watch sagas without touching them.

The engine tells one observer what has happened, after it has. Every hook of
:class:`Observer` does nothing, so a subclass overrides what it cares for. An
observer that raises is ignored, but for a line in the log of this package:
watching must never change what is watched.

A saga may end in another process than the one that began it. What its observers there
want to know is kept in its journal: :meth:`Observer.state_to_persist`.
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
        """The saga's intents are durable; nothing has been taken."""

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any] | None:
        """
        Tell what the journal is to keep for whoever watches the saga's end; JSON-safe, no secret.

        Asked once, when the saga has begun.
        """

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """A step holds its resource."""

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step raised; its saga unwinds next."""

    def saga_committed(self, saga_id: str) -> None:
        """All steps are done, durably."""

    def end_requested(self, saga_id: str, why: Unwind) -> None:
        """An end was asked for; somebody else will unwind."""

    def saga_resumed(
        self, saga_id: str, labels: Mapping[str, object], observer_state: Mapping[str, Any]
    ) -> None:
        """A saga that was begun earlier, perhaps by another process, is unwound here next."""

    def unwinding_begun(self, saga_id: str, why: Unwind) -> None:
        """The saga is being undone."""

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """A step's undo has come to something; see its result."""

    def undo_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step's undo raised; the others go on, and it is tried again."""

    def saga_stuck(self, saga_id: str, report: UnwindReport) -> None:
        """Some steps could not be undone, for now."""

    def step_abandoned(self, saga_id: str, step: str, by: str, reason: str) -> None:
        """An operator gave a step up."""

    def saga_closed(self, saga_id: str, report: UnwindReport) -> None:
        """Nothing is held any more."""

    def journal_damaged(self, saga_id: str, kept: Path) -> None:
        """A damaged journal was kept aside and rebuilt."""


_HOOKS = [
    name for name in vars(Observer) if not name.startswith("_") and name != "state_to_persist"
]
if not TYPE_CHECKING:  # For a call of ``super()`` in a subclass that has the old names.
    for _old, _new in _RENAMED_HOOKS.items():
        setattr(Observer, _old, getattr(Observer, _new))


class _CombinedObserver(Observer):
    """Pass everything on to each of several, and let nothing back but what they carry."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        for name in _HOOKS:
            setattr(self, name, functools.partial(self._dispatch, name))

    def _dispatch(self, name: str, *args: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, name)(*args)
            except Exception as error:  # noqa: BLE001 - see the module's promise
                _log_failure(name, error)

    def state_to_persist(self, saga_id: str) -> Mapping[str, Any]:
        carried: dict[str, Any] = {}
        for observer in self._observers:
            try:
                # To JSON and back: what no journal can hold is refused here.
                given = msgspec.json.encode(observer.state_to_persist(saga_id) or {})
                carried.update(msgspec.json.decode(given, type=dict[str, Any]))
            except Exception as error:  # noqa: BLE001 - as above
                _log_failure("state_to_persist", error)
        return carried


def _log_failure(hook: str, error: Exception) -> None:
    """An observer has raised in one of its hooks; that changed nothing."""
    import logging  # noqa: PLC0415 - seldom needed, and slow to import

    from orchestrator_core.system.log import emit  # noqa: PLC0415 - as above, and not below us

    emit(logging.ERROR, "observer.failed", hook=hook, error=repr(error), exc_info=error)


def combine(*observers: Observer) -> Observer:
    """Return one observer that stands for several; none of them can disturb another."""
    return _CombinedObserver(observers)


def safe(observer: Observer | None) -> Observer:
    """Return *observer* so wrapped that it cannot disturb."""
    if isinstance(observer, _CombinedObserver):
        return observer
    return _CombinedObserver([observer]) if observer else Observer()
