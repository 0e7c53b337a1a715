"""What an unwinding came to, step by step."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec

from orchestrator_core.saga.step import Unwind  # noqa: TC001 - msgspec reads it at run time

FINALIZER = "epilogue"  #: What comes after the last undo is reported, and given up, by this name.


@attrs.frozen
class StepReport:
    """One step's undo."""

    step: str  #: The step, by its name.
    result: str  #: undone, absent, left, abandoned, or failed.
    duration_ms: float = 0.0
    attempts: int = 1
    detail: dict[str, Any] = attrs.field(factory=dict)
    error: str = ""  #: For failed: why.

    @property
    def failed(self) -> bool:
        """Whether what it holds may still be there."""
        return self.result == "failed"


@attrs.frozen
class UnwindReport:
    """One saga's unwinding, in the order in which it was done."""

    saga_id: str
    why: Unwind
    steps: tuple[StepReport, ...]
    closed: bool  #: Nothing is held any more. Otherwise the saga is STUCK.
    duration_ms: float = 0.0
    retry_at: float = 0.0  #: For a stuck one: when to try again, seconds since 1970.

    @property
    def failed(self) -> tuple[StepReport, ...]:
        """The steps that could not be undone."""
        return tuple(step for step in self.steps if step.failed)

    def step(self, name: str) -> StepReport | None:
        """Return the report of the step of that name, if the saga had one."""
        return next((step for step in self.steps if step.step == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-safe values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
