"""The global registry, as it should be: who lives, how many ended how, which tasks there are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.evidence import LifeState
from orchestrator_core.registry import fields
from orchestrator_core.registry.schema import agent_entry, task_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.reconcile.evidence import Evidence
    from orchestrator_core.registry import Document

    Record = dict[str, Any]
    Tasks = Mapping[str, Document | None]

_OWN = fields.GLOBAL_CONTENT | fields.PER_COPY  #: Not carried over from an older copy.


def merge_global(
    present: Document | None,
    older: Sequence[Document],
    told: Mapping[str, Evidence],
    *,
    fresh: Document,
    tasks: Tasks,
) -> Document:
    """
    Return the global document as it should be.

    *present* is the document as it is; None if it is damaged or gone. *older* are
    other copies, the newest first; *fresh* is a new one. *tasks* are all tasks,
    each with its own document, or None if that cannot be used now.
    """
    document: Document = dict(present) if present is not None else {}
    for source in (*older, fresh):
        for name, value in source.items():
            if name not in _OWN:
                document.setdefault(name, value)
    records = {
        str(record.get("id")): (task_id, record)
        for task_id, task in tasks.items()
        if task is not None
        for record in task["agents"]
    }
    document["agents"] = _entries(present, older, told, records, tasks)
    document["ended"] = _tallies([present or {}, *older], told, records)
    _list_tasks(document, present, older, tasks)
    return document


def _entries(
    present: Document | None,
    older: Sequence[Document],
    told: Mapping[str, Evidence],
    records: Mapping[str, tuple[str, Record]],
    tasks: Tasks,
) -> dict[str, Record]:
    known = [source["agents"] for source in ([present] if present else []) + list(older)]
    entries: dict[str, Record] = {}
    for agent_id in dict.fromkeys((*(name for each in known for name in each), *records, *told)):
        copies = [each[agent_id] for each in known if agent_id in each]
        is_present = present is not None and agent_id in present["agents"]
        testimony = told.get(agent_id)
        task_id, record = records.get(agent_id, ("", None))
        if testimony is not None:
            lives = _is_entered(testimony, is_known=bool(copies))
            copies.append(testimony.entry)
        elif record is not None:
            lives = is_active(record.get("status"))
        else:
            # Nothing says that it ended; but an old copy proves little.
            lives = is_present or tasks.get(str(copies[0].get("task_id")), {}) is None
        if record is not None:
            copies.append(agent_entry(task_id, record))
        if lives:
            entries[agent_id] = _merged(copies)
    return entries


def _merged(copies: Sequence[Record]) -> Record:
    """Return the first copy, with what only the others have."""
    merged: Record = {}
    for copy in copies:
        merged = {**merged, **{name: v for name, v in copy.items() if name not in merged}}
    return merged


def _is_entered(testimony: Evidence, *, is_known: bool) -> bool:
    """Tell whether an agent is among the living."""
    if testimony.fate is LifeState.ALIVE:
        return True
    if testimony.fate is LifeState.ENDING:
        return not testimony.entry_is_over
    return testimony.fate is LifeState.UNKNOWN and is_known


def _tallies(
    sources: Sequence[Document],
    told: Mapping[str, Evidence],
    records: Mapping[str, tuple[str, Record]],
) -> dict[str, int]:
    """
    Return how many ended how.

    No fewer than anybody has counted: there were tasks that are gone by now.
    """
    counted: Counter[str] = Counter()
    for agent_id in {*told, *records}:
        testimony = told.get(agent_id)
        _, record = records.get(agent_id, ("", None))
        if testimony is not None:
            over = testimony.fate is LifeState.ENDED or testimony.entry_is_over
            if over and testimony.end:
                counted[testimony.end["status"]] += 1
        elif record is not None and not is_active(record.get("status")):
            counted[str(record["status"])] += 1
    for source in sources:
        counted |= Counter(source.get("ended") or {})
    first = sources[0].get("ended") or {}
    return {status: counted[status] for status in dict.fromkeys((*first, *sorted(counted)))}


def _list_tasks(
    document: Document, present: Document | None, older: Sequence[Document], tasks: Tasks
) -> None:
    """List the tasks that have agents or are about to, and count the others."""
    busy = {str(entry.get("task_id")) for entry in document["agents"].values()}
    busy |= {
        name
        for name, task in tasks.items()
        if task and any(is_active(agent.get("status")) for agent in task["agents"])
    }
    listed: dict[str, Record] = dict(present["tasks"]) if present is not None else {}
    past = 0
    # One that is past is not listed again, though it may have an agent again, or look as if
    # it were yet to begin, since its only deployment failed.
    all_counted = present is not None and len(listed) + _past(present) >= len(tasks)
    for task_id, task in tasks.items():
        copies = [source["tasks"][task_id] for source in older if task_id in source["tasks"]]
        if task_id in listed:
            copies.insert(0, listed[task_id])
        if task is not None:
            copies.append(task_entry(task))
        entry = _merged(copies)
        is_over = entry.get("had_agents") and task_id not in busy and entry.get("key") is None
        is_over = is_over or (all_counted and task_id not in listed)
        if task_id in listed or (copies and not is_over):
            listed[task_id] = entry
        elif copies:
            past += 1
    document["tasks"] = listed
    counts = [_past(source) for source in ([present] if present else []) + list(older)]
    document["past_tasks"] = max([past, *counts])


def _past(document: Document) -> int:
    count = document.get("past_tasks")
    return count if isinstance(count, int) else 0
