"""
The check of a receipt before an undo: a receipt proves nothing by itself.

Every program that can write to a journal can write a receipt into it, with a correct
checksum. So a step may have one more method, ``verify``, which compares a receipt with what
the saga's id leads to::

    def verify(self, receipt, saga_id, labels): ...

It returns the receipt that is believed: names that are derived from the id, and no others.
If nothing of the receipt can be believed, it raises
:class:`~orchestrator_core.exceptions.ReceiptRefused`. What is not believed is left alone, and
the outcome's ``kept`` reports it. A step without the method believes its receipts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import attrs
import msgspec

from orchestrator_core.exceptions import ReceiptRefused
from orchestrator_core.saga.step import Outcome
from orchestrator_core.system.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga.history import History, StepState
    from orchestrator_core.saga.step import Step, Unwind

R = TypeVar("R")

_LONGEST = 200  #: Characters of a value in a report.


@runtime_checkable
class Verifies(Protocol[R]):
    """A step that compares its receipts with what the saga's id leads to."""

    def verify(self, receipt: R, saga_id: str, labels: Mapping[str, Any]) -> R:
        """
        Return the receipt that is believed. Changes nothing.

        *labels* are the saga's, from the same journal; they prove no more than the receipt.

        Raises:
            ReceiptRefused: Nothing of the receipt can be believed.
        """
        ...


def naming_id(saga_id: str, labels: Mapping[str, Any]) -> str:
    """
    Return the id that the names of a saga's resources contain.

    That is the saga's own, or the id before the number of a saga for leftovers: ``<id>_2``.
    """
    named = labels.get("agent_id")
    if isinstance(named, str) and saga_id.rpartition("_")[0] == named:
        return named
    return saga_id


def undo(step: Step[Any], frame: StepState, history: History, why: Unwind) -> Outcome:
    """
    Undo a step with the receipt that is believed, and report in ``kept`` what is not.

    Raises:
        UnknownStep: The receipt does not fit its type.
        Exception: The undo failed.
    """
    receipt = frame.load()
    try:
        believed = _believed(step, receipt, history)
    except ReceiptRefused as refusal:
        return Outcome.left(kept=f"{frame.name}: {refusal}")
    outcome = step.undo(believed, why)
    refused = _differences(receipt, believed)
    if not refused:
        return outcome
    kept = f"{frame.name}: not the agent's by its id, so left alone: {refused}"
    kept = "; ".join(filter(None, (str(outcome.detail.get("kept", "")), kept)))
    return attrs.evolve(outcome, detail={**outcome.detail, "kept": kept})


def probe(step: Step[Any], frame: StepState, history: History) -> Presence:
    """Return whether the resource of the believed receipt is there; FOREIGN if none is believed."""
    try:
        return step.probe(_believed(step, frame.load(), history))
    except ReceiptRefused:
        return Presence.FOREIGN


def _believed(step: Step[Any], receipt: Any, history: History) -> Any:  # noqa: ANN401 - any registered receipt
    if not isinstance(step, Verifies):
        return receipt
    return step.verify(receipt, history.saga_id, history.labels)


def _differences(receipt: object, believed: object) -> str:
    """Return the values of a receipt that are not believed, as text; empty if all are."""
    old, new = msgspec.to_builtins(receipt), msgspec.to_builtins(believed)
    changed = [name for name, value in old.items() if value != new[name]]
    return ", ".join(f"{name} {old[name]!r:.{_LONGEST}}" for name in changed)
