"""From steps to intents: the receipts of a saga, fixed before any step acts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import SagaError
from orchestrator_core.saga.encoding import make_entry
from orchestrator_core.saga.receipts import name_of, serialize
from orchestrator_core.saga.step import Context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.saga.encoding import Entry
    from orchestrator_core.saga.step import Step


def steps_by_type(steps: Iterable[Step[Any]]) -> dict[str, Step[Any]]:
    """Return *steps* by the type names of their receipts, as in journals."""
    return {name_of(step.receipt_type): step for step in steps}


def step_name(step: Step[Any]) -> str:
    """
    Return the name of a step within its saga: its ``name``, or else its receipt type.

    Two steps of one type need a ``name``.
    """
    return getattr(step, "name", "") or name_of(step.receipt_type)


def plan(saga_id: str, steps: Sequence[Step[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the planned receipts of *steps*, by step name.

    Raises:
        SagaError: Two steps have the same name.
        Exception: A step refused its plan.
    """
    receipts: dict[str, Any] = {}
    context = Context(saga_id, values, MappingProxyType(receipts))
    for step in steps:
        name = step_name(step)
        if name in receipts:
            raise SagaError(f"saga {saga_id!r} has two steps named {name!r}")
        receipts[name] = step.plan(context)
    return receipts


def opening_entries(
    saga_id: str, labels: Mapping[str, Any] | None, receipts: Mapping[str, Any]
) -> list[Entry]:
    """Return the first entries of a journal: its beginning, and the intent of each step."""
    intents = [intent_entry(name, receipt) for name, receipt in receipts.items()]
    return [begin_entry(saga_id, labels or {}, receipts), *intents]


def begin_entry(saga_id: str, labels: Mapping[str, Any], steps: Iterable[str]) -> Entry:
    """Return the first entry of a journal. It names all intents, so a missing one is noticed."""
    return make_entry("begin", saga=saga_id, labels=dict(labels), steps=list(steps))


def intent_entry(name: str, receipt: Any) -> Entry:  # noqa: ANN401 - any registered receipt
    """Return the entry with the planned receipt of a step."""
    return make_entry("intent", step=name, **serialize(receipt))
