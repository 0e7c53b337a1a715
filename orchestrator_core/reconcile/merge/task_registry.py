"""A task's registry, as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.model.environment import ORCHESTRATOR
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.reconcile.evidence import LifeState
from orchestrator_core.registry import fields
from orchestrator_core.registry.partial_parse import agent_of
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator_core.reconcile.evidence import Evidence
    from orchestrator_core.registry import Document

    Record = dict[str, Any]

_OWN = fields.TASK_CONTENT | fields.PER_COPY  #: Not carried over from an older copy.
_TIMES = frozenset({"completed_at", "last_update", "terminated_at", "auto_cleanup_timestamp"})
_STATUSES = frozenset(status.value for status in Status)


def merge_task(
    present: Document | None,
    older: Sequence[Document],
    told: Mapping[str, Evidence],
    *,
    otherwise: Mapping[str, Any],
) -> Document:
    """
    Return a task's document as it should be.

    *present* is the document as it is; None if it is damaged or gone. *older* are
    other copies, the newest first. *otherwise* has what a document itself says
    that nobody knows any more.
    """
    documents = ([] if present is None else [present]) + list(older)
    known = [_by_agent(each, told) for each in documents]
    records: list[Record] = []
    without_depth = set()
    for agent_id in dict.fromkeys((*(name for each in known for name in each), *told)):
        copies = [record for each in known for record in each.get(agent_id, ())]
        testimony = told.get(agent_id)
        if not _belongs(testimony, is_rebuilt=present is None, is_known=bool(copies)):
            continue
        if testimony is None or (present is not None and agent_id in known[0]):
            record = _corrected(_filled(copies), testimony)
        else:
            record = _corrected(_remade(testimony, copies), testimony)
            if testimony.fate is LifeState.ENDED:
                # Whole, as its report was. Times were written a moment later.
                end = {k: v for k, v in testimony.end.items() if not (k in _TIMES and k in record)}
                record |= end
            if testimony.fate is LifeState.ALIVE and _has_ended(
                told.get(str(record.get("parent")))
            ):
                record["parent"] = ORCHESTRATOR  # It was let live, or it would have ended first.
            if not any("depth" in copy for copy in copies):
                without_depth.add(agent_id)
        if copies:
            records.append(record)
        else:
            _insert(records, record)
    document = _top(present, older, otherwise)
    document["agents"] = records
    _set_depths(records, without_depth)
    document["agent_hierarchy"] = _hierarchy(documents, records, told)
    return document


def _has_ended(testimony: Evidence | None) -> bool:
    return testimony is not None and testimony.fate is LifeState.ENDED


def _insert(records: list[Record], record: Record) -> None:
    """Enter a record where its agent's turn was: parents stand before their children."""
    born = str(record.get("started_at") or "")
    at = len(records)
    while at and str(records[at - 1].get("started_at") or "") > born:
        at -= 1
    records.insert(at, record)


def _top(
    present: Document | None, older: Iterable[Document], otherwise: Mapping[str, Any]
) -> Document:
    document: Document = dict(present) if present is not None else {}
    if present is None:
        document |= {name: otherwise[name] for name in ("task_id", "workspace", "workspace_base")}
    for source in older if present is not None else (*older, otherwise):
        for name, value in source.items():
            if name not in _OWN and (name not in document or _says_less(document[name], value)):
                document[name] = value
    return document


def _says_less(value: object, other: object) -> bool:
    """Tell whether a field has lost what another copy has: an empty text, where one was."""
    return value == "" and isinstance(other, str) and other != ""


def _by_agent(document: Document, told: Mapping[str, Evidence]) -> dict[str, list[Record]]:
    """Return a document's records by the agents that they are of."""
    found: dict[str, list[Record]] = {}
    for record in document.get("agents", ()):
        # One that nobody knows is kept all the same; the same one, once.
        owner = _owner(record, told) or f"\0{record!r}"
        found.setdefault(owner, []).append(record)
    return found


def _owner(record: Record, told: Mapping[str, Evidence]) -> str | None:
    """Return whose record it is: if its id is nobody's, its session's name may tell."""
    agent_id = agent_of(record)
    session = agent_of({"tmux_session": record.get("tmux_session")})
    return session if agent_id not in told and session in told else agent_id


def _belongs(testimony: Evidence | None, *, is_rebuilt: bool, is_known: bool) -> bool:
    """Tell whether an agent has a record at all."""
    if testimony is None:
        return True  # Its journal is gone, or it never had one: the record is all there is.
    if testimony.fate is LifeState.ROLLED_BACK:
        return False
    if is_known:
        return not (is_rebuilt and testimony.fate is LifeState.UNKNOWN and not testimony.is_coming)
    if "started_at" not in testimony.record:
        return False  # It was ended without a record; nothing says what it was.
    # Who is being deployed enters its record by itself, unless what it entered was lost.
    return testimony.is_coming and is_rebuilt if testimony.fate is LifeState.UNKNOWN else True


def _filled(copies: Sequence[Record]) -> Record:
    """Return the first copy, with what only the others have."""
    record = dict(copies[0])
    lives = is_active(record.get("status"))
    for copy in copies[1:]:
        for name, value in copy.items():
            if not (lives and name in fields.TERMINAL):
                record.setdefault(name, value)
    return record


def _remade(testimony: Evidence, copies: Sequence[Record]) -> Record:
    """Return a record as it was first written, with what can be read of what became of it."""
    record = dict(testimony.record)
    for copy in reversed(copies):
        record |= {
            name: value for name, value in copy.items() if _fits(value, testimony.record.get(name))
        }
    if not is_id(str(record.get("parent"))):
        record["parent"] = testimony.record.get("parent", ORCHESTRATOR)
    if record.get("status") not in _STATUSES:
        record["status"] = testimony.record.get("status", Status.RUNNING.value)
    return record


def _fits(value: object, known: object) -> bool:
    return known is None or type(value) is type(known)


def _corrected(record: Record, testimony: Evidence | None) -> Record:
    """Return a record as its agent's journal, and its own reports, say that it is."""
    if testimony is None:
        return record
    for name, value in testimony.record.items():
        if name in fields.IMMUTABLE or name not in record:
            record = {**record, name: value}
    if testimony.fate is LifeState.ENDED or (
        testimony.fate is LifeState.ENDING and testimony.record_is_over
    ):
        if record.get("status") != testimony.end["status"]:
            return record | testimony.end
        return record | {name: v for name, v in testimony.end.items() if name not in record}
    if testimony.fate is not LifeState.ALIVE:
        return record
    if not is_active(record.get("status")):
        record = {name: value for name, value in record.items() if name not in fields.TERMINAL}
        record["status"] = testimony.reported.get("status", Status.RUNNING.value)
    if str(testimony.reported.get("last_update", "")) >= str(record.get("last_update", "")):
        record |= testimony.reported
    return record


def _set_depths(records: Sequence[Record], wanted: set[str]) -> None:
    """Give the records of which nobody knows the depth that which their parents give them."""
    by_id = {record["id"]: record for record in records if "id" in record}
    for agent_id in wanted & by_id.keys():
        depth, seen = 1, {agent_id}
        parent = by_id[agent_id].get("parent", ORCHESTRATOR)
        while parent in by_id and parent not in seen:
            depth += 1
            seen.add(parent)
            parent = by_id[parent].get("parent", ORCHESTRATOR)
        by_id[agent_id]["depth"] = max(depth, by_id[agent_id].get("depth", 1))


def _hierarchy(
    documents: Sequence[Document], records: Sequence[Record], told: Mapping[str, Evidence]
) -> dict[str, list[str]]:
    """Return who deployed whom: as the records say, and for agents without one as it was said."""
    parent_of = {
        record["id"]: str(record.get("parent") or ORCHESTRATOR)
        for record in records
        if isinstance(record.get("id"), str)
    }
    hierarchy: dict[str, list[str]] = {}
    for document in documents:
        for parent, children in _pairs_of(document.get("agent_hierarchy")):
            kept = [
                child
                for child in children
                if parent_of.get(child, parent) == parent and _is_nobodys(child, parent_of, told)
            ]
            family = hierarchy.setdefault(parent, [])
            family += [child for child in kept if child not in family]
    for child, parent in parent_of.items():
        family = hierarchy.setdefault(parent, [])
        if child not in family:
            family.append(child)
    return {parent: children for parent, children in hierarchy.items() if children}


def _is_nobodys(child: str, parent_of: Mapping[str, str], told: Mapping[str, Evidence]) -> bool:
    """Tell whether no journal says that there was no such agent."""
    return child in parent_of or child not in told


def _pairs_of(hierarchy: object) -> Iterable[tuple[str, list[str]]]:
    if not isinstance(hierarchy, dict):
        return ()
    return [
        (parent, [child for child in children if isinstance(child, str)])
        for parent, children in hierarchy.items()
        if isinstance(children, list)
    ]
