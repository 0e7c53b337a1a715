"""
Rebuild the journal of a damaged saga from the lines that still check.

Which line was lost cannot be known; it may have been the commit. So a saga that
was not being unwound is taken for committed, and lives on unless its owner's
verdict says that it is dead: nothing living is ended for a damaged file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import JournalDamaged
from orchestrator_core.saga.engine import entry_of, intent_of
from orchestrator_core.saga.history import History, fold
from orchestrator_core.saga.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator_core.saga.journal import Entry

    Replan = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

_STACK = {"begin", "intent"}


def salvage(saga_id: str, entries: Iterable[Entry], replan: Replan) -> list[Entry]:
    """
    Return the entries of a whole journal, made from what is left of one.

    *replan* gives the receipts that belong to the saga, by step name, from its id
    and its labels: what the damage took, and no more, is taken from there.
    """
    entries = list(entries)
    begin = _first(entries, "begin") or entry_of("begin", saga=saga_id, labels={})
    kept = {entry.data["step"]: entry for entry in entries if entry.kind == "intent"}
    planned = replan(saga_id, begin.data.get("labels", {}))
    # The plan knows the order, in which the stack will be unwound.
    names = [*planned, *(name for name in kept if name not in planned)]
    stack = [kept.get(name) or intent_of(name, planned[name]) for name in names]
    life = _fitting([begin, *stack], [e for e in entries if e.kind not in _STACK])
    return [begin, *stack, *life]


def _first(entries: list[Entry], kind: str) -> Entry | None:
    return next((entry for entry in entries if entry.kind == kind), None)


def _fitting(stack: list[Entry], entries: list[Entry]) -> list[Entry]:
    """Return those of *entries* that can follow each other, with a commit if none is left."""
    fitting: list[Entry] = []
    for entry in entries:
        if _fits([*stack, *fitting, entry]):
            fitting.append(entry)
    if _state([*stack, *fitting]) is State.RUNNING:
        fitting.append(entry_of("commit"))
    return fitting


def _fits(entries: list[Entry]) -> bool:
    try:
        fold(entries)
    except JournalDamaged:
        return False
    return True


def _state(entries: list[Entry]) -> State:
    history: History = fold(entries)
    return history.state
