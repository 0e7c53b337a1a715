"""The merge of a task's registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.reconcile.evidence import LifeState
from orchestrator_core.registry import fields
from orchestrator_core.registry.partial_parse import agent_of
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from orchestrator_core.reconcile.evidence import Evidence
    from orchestrator_core.registry import Document

    Record = dict[str, Any]

_OWN = fields.TASK_CONTENT | fields.PER_COPY  #: Never taken from another version.
_TIMES = frozenset({"completed_at", "last_update", "terminated_at", "auto_cleanup_timestamp"})
_STATUSES = frozenset(status.value for status in Status)


def merge_task(
    present: Document | None,
    previous: Sequence[Document],
    evidence: Mapping[str, Evidence],
    *,
    defaults: Mapping[str, Any],
) -> Document:
    """
    Return a task's document as it should be.

    *present* is the document as it is; None if it is damaged or missing. *previous* are
    other versions, the newest first. *defaults* are the top-level fields for a document
    that no version has them of.
    """
    documents = [*([] if present is None else [present]), *previous]
    known = [_records_by_agent(each, evidence) for each in documents]
    records: list[Record] = []
    without_depth = set()
    for agent_id in dict.fromkeys((*(name for each in known for name in each), *evidence)):
        copies = [record for each in known for record in each.get(agent_id, ())]
        proof = evidence.get(agent_id)
        if not _should_exist(proof, is_rebuilt=present is None, is_known=bool(copies)):
            continue
        if proof is None or (present is not None and agent_id in known[0]):
            is_live = is_active(copies[0].get("status"))
            record = fill_missing(copies, without=fields.TERMINAL if is_live else ())
            records.append(_apply_evidence(record, proof))
            continue
        record = _rebuild_record(proof, copies, evidence)
        if not any("depth" in copy for copy in copies):
            without_depth.add(agent_id)
        position = len(records) if copies else _position_by_start(records, record)
        records.insert(position, record)
    document = _top_level(present, previous, defaults)
    document["agents"] = records
    _set_depths(records, without_depth)
    document["agent_hierarchy"] = _hierarchy(documents, records, evidence)
    return document


def fill_missing(copies: Sequence[Record], *, without: Collection[str] = ()) -> Record:
    """Return the first of *copies* with the fields that only the others have, but *without*."""
    filled = dict(copies[0]) if copies else {}
    for copy in copies[1:]:
        for name, value in copy.items():
            if name not in without:
                filled.setdefault(name, value)
    return filled


def _top_level(
    present: Document | None, previous: Sequence[Document], defaults: Mapping[str, Any]
) -> Document:
    document: Document = dict(present or {})
    if present is None:
        document |= {name: defaults[name] for name in ("task_id", "workspace", "workspace_base")}
    for source in previous if present is not None else (*previous, defaults):
        for name, value in source.items():
            is_better = document.get(name) == "" and isinstance(value, str)
            if name not in _OWN and (name not in document or is_better):
                document[name] = value
    return document


def _should_exist(evidence: Evidence | None, *, is_rebuilt: bool, is_known: bool) -> bool:
    """Return whether an agent has a record at all."""
    if evidence is None:
        return True  # Without a journal, the record is the only source.
    if evidence.state is LifeState.ROLLED_BACK:
        return False
    if is_known:
        return not is_rebuilt or evidence.state is not LifeState.UNKNOWN or evidence.is_deploying
    if "started_at" not in evidence.record:
        return False  # It was ended without a record, and nothing has the record's fields.
    # A running deployment writes its record by itself, unless that record was lost.
    return evidence.state is not LifeState.UNKNOWN or (evidence.is_deploying and is_rebuilt)


# --- records ------------------------------------------------------------------------------------


def _records_by_agent(
    document: Document, evidence: Mapping[str, Evidence]
) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in document.get("agents", ()):
        # A record of no known agent is kept, too, and equal ones once.
        owner = _agent_of_record(record, evidence) or f"\0{record!r}"
        found.setdefault(owner, []).append(record)
    return found


def _agent_of_record(record: Record, evidence: Mapping[str, Evidence]) -> str | None:
    """Return a record's agent. If its id is no agent's, its session's name may be."""
    agent_id = agent_of(record)
    session = agent_of({"tmux_session": record.get("tmux_session")})
    return session if agent_id not in evidence and session in evidence else agent_id


def _rebuild_record(
    proof: Evidence, copies: Sequence[Record], evidence: Mapping[str, Evidence]
) -> Record:
    """Return a record as it was first written, with the later fields that *copies* have."""
    first = proof.record
    record = dict(first)
    for copy in reversed(copies):
        record |= {
            name: value
            for name, value in copy.items()
            if first.get(name) is None or type(value) is type(first[name])
        }
    if not is_id(str(record.get("parent"))):
        record["parent"] = first.get("parent", ORCHESTRATOR)
    if record.get("status") not in _STATUSES:
        record["status"] = first.get("status", Status.RUNNING.value)
    record = _apply_evidence(record, proof)
    if proof.state is LifeState.ENDED:
        # The end as it was reported. The registry's own times are a little later.
        record |= {
            name: value
            for name, value in proof.end.items()
            if name not in record or name not in _TIMES
        }
    parent = evidence.get(str(record.get("parent")))
    if proof.state is LifeState.ALIVE and parent is not None and parent.state is LifeState.ENDED:
        record["parent"] = ORCHESTRATOR  # The parent's end spared it, or it would have ended first.
    return record


def _apply_evidence(record: Record, evidence: Evidence | None) -> Record:
    """Return a record corrected by its agent's journal and reports."""
    if evidence is None:
        return record
    fixed = {name: value for name, value in evidence.record.items() if name in fields.IMMUTABLE}
    record = fill_missing([record | fixed, evidence.record])
    if evidence.state is LifeState.ENDED or (
        evidence.state is LifeState.ENDING and evidence.record_ended
    ):
        if record.get("status") != evidence.end["status"]:
            return record | evidence.end
        return fill_missing([record, evidence.end])
    if evidence.state is not LifeState.ALIVE:
        return record
    if not is_active(record.get("status")):
        record = {name: value for name, value in record.items() if name not in fields.TERMINAL}
        record["status"] = evidence.last_report.get("status", Status.RUNNING.value)
    if str(evidence.last_report.get("last_update", "")) >= str(record.get("last_update", "")):
        record |= evidence.last_report
    return record


def _position_by_start(records: Sequence[Record], record: Record) -> int:
    """Return where a record goes by its agent's start: parents stand before their children."""
    started_at = str(record.get("started_at") or "")
    position = len(records)
    while position and str(records[position - 1].get("started_at") or "") > started_at:
        position -= 1
    return position


# --- the hierarchy ------------------------------------------------------------------------------


def _set_depths(records: Sequence[Record], agent_ids: set[str]) -> None:
    """Set the depths of *agent_ids*, which no version has, by their parents."""
    by_id = {record["id"]: record for record in records if "id" in record}
    for agent_id in agent_ids & by_id.keys():
        ancestors = [agent_id]
        parent = by_id[agent_id].get("parent", ORCHESTRATOR)
        while parent in by_id and parent not in ancestors:
            ancestors.append(parent)
            parent = by_id[parent].get("parent", ORCHESTRATOR)
        by_id[agent_id]["depth"] = max(len(ancestors), by_id[agent_id].get("depth", 1))


def _hierarchy(
    documents: Sequence[Document], records: Sequence[Record], evidence: Mapping[str, Evidence]
) -> dict[str, list[str]]:
    """Return the children of each agent: by the records, or else as any document has them."""
    parent_of = {
        record["id"]: str(record.get("parent") or ORCHESTRATOR)
        for record in records
        if isinstance(record.get("id"), str)
    }
    pairs = [
        (parent, child)
        for document in documents
        for parent, child in _pairs(document.get("agent_hierarchy"))
        # A child without a record stays, unless a journal shows that it never ran.
        if (parent_of[child] == parent if child in parent_of else child not in evidence)
    ]
    hierarchy: dict[str, dict[str, None]] = {}
    for parent, child in (*pairs, *((parent, child) for child, parent in parent_of.items())):
        hierarchy.setdefault(parent, {})[child] = None
    return {parent: list(children) for parent, children in hierarchy.items()}


def _pairs(hierarchy: object) -> Iterator[tuple[str, str]]:
    for parent, children in hierarchy.items() if isinstance(hierarchy, dict) else ():
        if isinstance(children, list):
            yield from ((parent, child) for child in children if isinstance(child, str))
