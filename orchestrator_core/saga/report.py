"""The report of an unwinding, step by step."""

from __future__ import annotations

from typing import Any

import attrs

from orchestrator_core.saga.step import Unwind  # noqa: TC001 - msgspec reads it at run time
from orchestrator_core.system.json_values import JsonValues

FINALIZER = "epilogue"  #: The step name under which the finalizer is reported and abandoned.

REFUSED_LINES = "journal"  #: The step name under which lines that are not believed are reported.


@attrs.frozen
class StepReport:
    """The undo of one step."""

    step: str  #: Its name.
    result: str  #: undone, absent, left, abandoned, or failed.
    duration_ms: float = 0.0
    attempts: int = 1
    detail: dict[str, Any] = attrs.field(factory=dict)
    error: str = ""  #: Why a failed one failed.

    @property
    def failed(self) -> bool:
        """Whether the resource may still be there."""
        return self.result == "failed"


@attrs.frozen
class UnwindReport(JsonValues):
    """The unwinding of one saga, its steps in the order of their undos."""

    saga_id: str
    why: Unwind
    steps: tuple[StepReport, ...]
    closed: bool  #: Nothing is held. Otherwise the saga is STUCK.
    duration_ms: float = 0.0
    retry_at: float = 0.0  #: When a STUCK saga is retried, in seconds since 1970.

    @property
    def failed(self) -> tuple[StepReport, ...]:
        """The steps that could not be undone."""
        return tuple(step for step in self.steps if step.failed)

    def step(self, name: str) -> StepReport | None:
        """Return the report of the step of that name, if the saga had one."""
        return next((step for step in self.steps if step.step == name), None)
