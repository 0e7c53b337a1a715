"""
Watch sagas without touching them.

The engine tells one observer what has happened, after it has. Every hook of
:class:`Observer` does nothing, so a subclass overrides what it cares for. An
observer that raises is ignored, but for a line in the log of this package:
watching must never change what is watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestrator_core.saga.report import StepReport, UnwindReport
    from orchestrator_core.saga.step import Unwind


class Observer:
    """Hooks, all in the past tense. Durations are in milliseconds."""

    def saga_begun(self, saga_id: str, labels: Mapping[str, object]) -> None:
        """The saga's intents are durable; nothing has been taken."""

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """A step holds its resource."""

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        """A step raised; its saga unwinds next."""

    def saga_committed(self, saga_id: str) -> None:
        """All steps are done, durably."""

    def end_requested(self, saga_id: str, why: Unwind) -> None:
        """An end was asked for; somebody else will unwind."""

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


class _Guarded(Observer):
    """Pass everything on, and let nothing back."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __getattribute__(self, name: str) -> object:
        if name.startswith("_"):
            return super().__getattribute__(name)
        hook = getattr(super().__getattribute__("_observer"), name)

        def told(*args: object) -> None:
            try:
                hook(*args)
            except Exception:
                import logging  # noqa: PLC0415 - seldom needed, and slow to import

                logging.getLogger("orchestrator_core").exception("observer raised in %s", name)

        return told


class _Together(Observer):
    """Pass everything on to each of several."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(map(guarded, observers))

    def __getattribute__(self, name: str) -> object:
        if name.startswith("_"):
            return super().__getattribute__(name)
        observers = super().__getattribute__("_observers")
        hooks = [getattr(observer, name) for observer in observers]

        def told(*args: object) -> None:
            for hook in hooks:
                hook(*args)

        return told


def together(*observers: Observer) -> Observer:
    """Return one observer that stands for several; none of them can disturb another."""
    return _Together(observers)


def guarded(observer: Observer | None) -> Observer:
    """Return *observer* so wrapped that it cannot disturb."""
    return _Guarded(observer) if observer else Observer()
