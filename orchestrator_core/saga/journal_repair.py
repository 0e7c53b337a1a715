"""
Rebuild the journal of a damaged saga from its undamaged lines.

The lost line is unknown, and may be the commit. So a saga without an ``unwind`` line counts as
committed, and lives on unless the policy of recovery ends it: damage to a file ends no living
saga. What a lost ``done`` line contained is taken from the policy, as far as the policy knows it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import JournalDamaged
from orchestrator_core.saga.encoding import make_entry
from orchestrator_core.saga.history import fold
from orchestrator_core.saga.planning import begin_entry, intent_entry
from orchestrator_core.saga.receipts import serialize
from orchestrator_core.saga.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator_core.saga.encoding import Entry

    DeriveReceipts = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]

_HEAD_KINDS = {"begin", "intent"}


def repair_entries(
    saga_id: str, entries: Iterable[Entry], derive_receipts: DeriveReceipts
) -> list[Entry]:
    """
    Return the entries of a whole journal, from the undamaged *entries* of one.

    *derive_receipts* returns the saga's receipts by step name, from its id and its labels. They
    replace the lost intents, and the fields that are only in a lost ``done`` line.
    """
    entries = list(entries)
    begins = [entry for entry in entries if entry.kind == "begin"]
    labels = begins[0].data.get("labels", {}) if begins else {}
    kept = {entry.data["step"]: entry for entry in _before_end(entries) if entry.kind == "intent"}
    derived = derive_receipts(saga_id, labels)
    listed = begins[0].data.get("steps", ()) if begins else kept
    names = _in_order(derived, [name for name in listed if name in derived or name in kept])
    stack = [kept.get(name) or intent_entry(name, derived[name]) for name in names]
    later_entries = [entry for entry in entries if entry.kind not in _HEAD_KINDS]
    return _append_consistent(
        [begin_entry(saga_id, labels, names), *stack],
        [
            *_missing_done(stack, derived, later_entries),
            *_missing_unwind(later_entries),
            *later_entries,
        ],
    )


def _before_end(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries before the commit or the unwinding. No intent follows these."""
    return itertools.takewhile(lambda entry: entry.kind not in {"commit", "unwind"}, entries)


def _in_order(derived: Iterable[str], listed: Iterable[str]) -> list[str]:
    """
    Return all step names in the order of the stack.

    The derived names have the right order. Each other name follows its predecessor in the
    journal.
    """
    names, position = list(derived), 0
    for name in listed:
        if name in names:
            position = names.index(name)
        else:
            names.insert(position, name)
        position += 1
    return names


def _missing_done(
    stack: list[Entry], derived: Mapping[str, Any], later_entries: list[Entry]
) -> Iterator[Entry]:
    """Yield a ``done`` entry for each step without one whose derived receipt has more fields."""
    done = {entry.data.get("step") for entry in later_entries if entry.kind == "done"}
    for intent in stack:
        name, planned = intent.data["step"], intent.data["receipt"]
        if name in derived and name not in done:
            fresh = serialize(derived[name])
            known = {key: value for key, value in planned.items() if value is not None}
            whole = {**fresh["receipt"], **known}
            if fresh["type"] == intent.data["type"] and whole != planned:
                yield make_entry("done", step=name, ms=0.0, receipt=whole)


def _missing_unwind(later_entries: list[Entry]) -> list[Entry]:
    """Return the ``unwind`` entry if it is lost, and the last entry contains its reason."""
    last = later_entries[-1:]
    if last and last[0].kind == "close" and all(e.kind != "unwind" for e in later_entries):
        return [make_entry("unwind", why=last[0].data["report"]["why"])]
    return []


def _append_consistent(whole: list[Entry], more: list[Entry]) -> list[Entry]:
    """Return *whole* with those of *more* that can follow, and a commit if no end does."""
    history = fold(whole)
    for entry in more:
        try:
            history.extend([entry])
        except JournalDamaged:
            continue
        whole.append(entry)
    if history.state is State.RUNNING:
        whole.append(make_entry("commit"))
    return whole
