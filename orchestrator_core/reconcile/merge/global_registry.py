"""The merge of the global registry: the live agents, the counts of ended ones, and the tasks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.evidence import LifeState
from orchestrator_core.reconcile.merge.task_registry import fill_missing
from orchestrator_core.registry import fields
from orchestrator_core.registry.document import agent_entry, task_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.reconcile.evidence import Evidence
    from orchestrator_core.registry import Document

    Record = dict[str, Any]
    Records = Mapping[str, tuple[str, Record]]  #: By agent: its task, and its record there.
    Tasks = Mapping[str, Document | None]

_OWN = fields.GLOBAL_CONTENT | fields.PER_COPY  #: Never taken from another version.


def merge_global(
    present: Document | None,
    previous: Sequence[Document],
    evidence: Mapping[str, Evidence],
    *,
    empty: Document,
    tasks: Tasks,
) -> Document:
    """
    Return the global document as it should be.

    *present* is the document as it is; None if it is damaged or missing. *previous* are
    other versions, the newest first; *empty* is a new document. *tasks* are all tasks, each
    with its own document, or None if that cannot be used now.
    """
    documents = [*([] if present is None else [present]), *previous]
    document: Document = dict(present or {})
    for source in (*previous, empty):
        for name, value in source.items():
            if name not in _OWN:
                document.setdefault(name, value)
    records = {
        str(record.get("id")): (task_id, record)
        for task_id, task in tasks.items()
        if task is not None
        for record in task["agents"]
    }
    document["agents"] = _live_entries(present, documents, evidence, records, tasks)
    document["ended"] = _ended_counts(present, documents, evidence, records)
    _list_tasks(document, present, documents, tasks)
    return document


def _live_entries(
    present: Document | None,
    documents: Sequence[Document],
    evidence: Mapping[str, Evidence],
    records: Records,
    tasks: Tasks,
) -> dict[str, Record]:
    known = [document["agents"] for document in documents]
    live: dict[str, Record] = {}
    for agent_id in dict.fromkeys(
        (*(name for each in known for name in each), *records, *evidence)
    ):
        copies = [each[agent_id] for each in known if agent_id in each]
        proof = evidence.get(agent_id)
        task_id, record = records.get(agent_id, ("", None))
        if proof is not None:
            is_live = _is_listed(proof, is_known=bool(copies))
            copies.append(proof.entry)
        elif record is not None:
            is_live = is_active(record.get("status"))
        else:
            # No source shows an end. A previous version proves little if its task is known.
            is_live = present is not None and agent_id in present["agents"]
            is_live = is_live or tasks.get(str(copies[0].get("task_id")), {}) is None
        if record is not None:
            copies.append(agent_entry(task_id, record))
        if is_live:
            live[agent_id] = fill_missing(copies)
    return live


def _is_listed(evidence: Evidence, *, is_known: bool) -> bool:
    if evidence.state is LifeState.ENDING:
        return not evidence.entry_removed
    return evidence.state is LifeState.ALIVE or (evidence.state is LifeState.UNKNOWN and is_known)


def _ended_counts(
    present: Document | None,
    documents: Sequence[Document],
    evidence: Mapping[str, Evidence],
    records: Records,
) -> dict[str, int]:
    """Return the number of ended agents by status: no lower than any version has counted."""
    counts: Counter[str] = Counter()
    for agent_id in {*evidence, *records}:
        proof = evidence.get(agent_id)
        _, record = records.get(agent_id, ("", None))
        if proof is not None:
            if proof.end and (proof.state is LifeState.ENDED or proof.entry_removed):
                counts[proof.end["status"]] += 1
        elif record is not None and not is_active(record.get("status")):
            counts[str(record["status"])] += 1
    for document in documents:  # Some of their tasks may be gone by now.
        counts |= Counter(document.get("ended") or {})
    order = dict.fromkeys((*((present or {}).get("ended") or {}), *sorted(counts)))
    return {status: counts[status] for status in order}


def _list_tasks(
    document: Document, present: Document | None, documents: Sequence[Document], tasks: Tasks
) -> None:
    """List the tasks that have live agents or no agent yet, and count the others."""
    busy = {str(entry.get("task_id")) for entry in document["agents"].values()}
    busy |= {
        task_id
        for task_id, task in tasks.items()
        if task and any(is_active(agent.get("status")) for agent in task["agents"])
    }
    listed: dict[str, Record] = dict(present["tasks"]) if present is not None else {}
    # A past task is not listed again, even if it has a live agent again, or seems to have had
    # none because its only deployment failed.
    all_counted = present is not None and len(listed) + _past_count(present) >= len(tasks)
    past = 0
    for task_id, task in tasks.items():
        copies = [each["tasks"][task_id] for each in documents if task_id in each["tasks"]]
        if task is not None:
            copies.append(task_entry(task))
        entry = fill_missing(copies)
        is_past = entry.get("had_agents") and task_id not in busy and entry.get("key") is None
        if task_id in listed or (copies and not is_past and not all_counted):
            listed[task_id] = entry
        elif copies:
            past += 1
    document["tasks"] = listed
    document["past_tasks"] = max([past, *map(_past_count, documents)])


def _past_count(document: Document) -> int:
    count = document.get("past_tasks")
    return count if isinstance(count, int) else 0
