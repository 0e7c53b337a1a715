"""From steps to intents: what a saga is going to take, fixed before it takes anything."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator_core.exceptions import SagaError
from orchestrator_core.saga.encoding import Entry
from orchestrator_core.saga.receipts import name_of, serialize
from orchestrator_core.saga.step import Context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.saga.step import Step


def steps_by_type(steps: Iterable[Step[Any]]) -> dict[str, Step[Any]]:
    """Return *steps* by the receipt types under which journals know them."""
    return {name_of(step.receipt_type): step for step in steps}


def step_name(step: Step[Any]) -> str:
    """
    Return what a step is called within its saga.

    Its ``name`` if it has one, which two steps of one type need; else its type.
    """
    return getattr(step, "name", "") or name_of(step.receipt_type)


def plan(saga_id: str, steps: Sequence[Step[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what *steps* are going to take: their receipts, by step name.

    Raises:
        SagaError: Two steps have one name.
        Exception: A step refused.
    """
    receipts: dict[str, Any] = {}
    context = Context(saga_id, values, MappingProxyType(receipts))
    for step in steps:
        name = step_name(step)
        if name in receipts:
            raise SagaError(f"saga {saga_id!r} has two steps called {name!r}")
        receipts[name] = step.plan(context)
    return receipts


def begin_entry(saga_id: str, labels: Mapping[str, Any], steps: Iterable[str]) -> Entry:
    """Return a journal's first entry. It names the intents that follow: none can be missed."""
    plain = msgspec.to_builtins(dict(labels))
    return Entry("begin", {"saga": saga_id, "labels": plain, "steps": list(steps)})


def intent_entry(name: str, receipt: Any) -> Entry:  # noqa: ANN401 - any registered receipt
    """Return the entry that fixes what a step is going to take."""
    return Entry("intent", {"step": name, **serialize(receipt)})
