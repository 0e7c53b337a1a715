"""The merge of the global registry: the live agents, the counts of ended ones, and the tasks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.evidence import LifeState
from orchestrator_core.reconcile.merge.task_registry import fill_missing
from orchestrator_core.registry import fields
from orchestrator_core.registry.document import agent_entry, task_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    document: Document = fill_missing([present or {}, *previous, empty], without=_OWN)
    records = {
        str(record.get("id")): (task_id, record)
        for task_id, task in tasks.items()
        if task is not None
        for record in task["agents"]
    }
    merge = _GlobalMerge(present or empty, previous, evidence, records, tasks)
    document["agents"] = merge.live_entries()
    document["ended"] = merge.ended_counts()
    document["tasks"], document["past_tasks"] = merge.tasks_and_past(document["agents"].values())
    return document


@attrs.frozen
class _GlobalMerge:
    """The sources of one merge, and the parts that it computes from them."""

    present: Document  #: An empty one, if the present one cannot be used.
    previous: Sequence[Document]
    evidence: Mapping[str, Evidence]
    records: Records
    tasks: Tasks

    @property
    def documents(self) -> tuple[Document, ...]:
        """All versions, the newest first."""
        return self.present, *self.previous

    def live_entries(self) -> dict[str, Record]:
        """Return the entries of the agents that are alive."""
        known = [document["agents"] for document in self.documents]
        live: dict[str, Record] = {}
        for agent_id in dict.fromkeys(
            (*(name for each in known for name in each), *self.records, *self.evidence)
        ):
            copies = [each[agent_id] for each in known if agent_id in each]
            proof = self.evidence.get(agent_id)
            task_id, record = self.records.get(agent_id, ("", None))
            if proof is not None:
                is_live = _is_listed(proof, is_known=bool(copies))
                copies.append(proof.entry)
            elif record is not None:
                is_live = is_active(record.get("status"))
            else:
                # No source shows an end. A previous version proves little if its task is known.
                is_task_unknown = self.tasks.get(str(copies[0].get("task_id")), {}) is None
                is_live = agent_id in self.present["agents"] or is_task_unknown
            if record is not None:
                copies.append(agent_entry(task_id, record))
            if is_live:
                live[agent_id] = fill_missing(copies)
        return live

    def ended_counts(self) -> dict[str, int]:
        """Return the number of ended agents by status: no lower than any version has counted."""
        counts: Counter[str] = Counter()
        for agent_id in {*self.evidence, *self.records}:
            proof = self.evidence.get(agent_id)
            _, record = self.records.get(agent_id, ("", None))
            if proof is not None:
                if proof.end and (proof.state is LifeState.ENDED or proof.entry_removed):
                    counts[proof.end["status"]] += 1
            elif record is not None and not is_active(record.get("status")):
                counts[str(record["status"])] += 1
        for document in self.documents:  # Some of their tasks may be gone by now.
            counts |= Counter(document.get("ended") or {})
        order = dict.fromkeys((*(self.present.get("ended") or {}), *sorted(counts)))
        return {status: counts[status] for status in order}

    def tasks_and_past(self, live: Iterable[Record]) -> tuple[dict[str, Record], int]:
        """Return the tasks that have live agents or no agent yet, and the number of the others."""
        busy = {str(entry.get("task_id")) for entry in live}
        busy |= {
            task_id
            for task_id, task in self.tasks.items()
            if task and any(is_active(agent.get("status")) for agent in task["agents"])
        }
        listed: dict[str, Record] = dict(self.present["tasks"])
        # A past task is not listed again, even if it has a live agent again, or seems to have had
        # none because its only deployment failed.
        all_counted = len(listed) + _past_count(self.present) >= len(self.tasks)
        past = 0
        for task_id, task in self.tasks.items():
            copies = [each["tasks"][task_id] for each in self.documents if task_id in each["tasks"]]
            if task is not None:
                copies.append(task_entry(task))
            entry = fill_missing(copies)
            is_past = entry.get("had_agents") and task_id not in busy and entry.get("key") is None
            if task_id in listed or (copies and not is_past and not all_counted):
                listed[task_id] = entry
            elif copies:
                past += 1
        return listed, max([past, *map(_past_count, self.documents)])


def _is_listed(evidence: Evidence, *, is_known: bool) -> bool:
    if evidence.state is LifeState.ENDING:
        return not evidence.entry_removed
    return evidence.state is LifeState.ALIVE or (evidence.state is LifeState.UNKNOWN and is_known)


def _past_count(document: Document) -> int:
    count = document.get("past_tasks")
    return count if isinstance(count, int) else 0
