"""
What an agent's journal, and its own reports, say that its record should be.

The journal holds the record as it was first written, and the end as it was
decided; the agent's files hold what it last reported. So a record can be made
anew, or checked, whatever has become of its registry.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.deployment.steps import final_status
from orchestrator_core.exceptions import InvalidId, JournalDamaged, SagaError, StorageError
from orchestrator_core.model.outcome import cleanup_record
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.saga import State
from orchestrator_core.saga.history import History, load_history
from orchestrator_core.saga.report import UnwindReport
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Sagas
    from orchestrator_core.saga.encoding import ParsedJournal


class LifeState(enum.Enum):
    """What a journal says of its agent's life."""

    ALIVE = "alive"  #: It was committed, and nobody has begun to end it.
    ENDING = "ending"  #: It lived, and is being ended.
    ENDED = "ended"  #: It lived, and was ended.
    ROLLED_BACK = "never"  #: It never came to be.
    UNKNOWN = "unsure"  #: It is being deployed or rolled back, or its journal is damaged.


@attrs.frozen(kw_only=True)
class Evidence:
    """All that is said of one agent, apart from its registries."""

    agent_id: str
    task_id: str
    fate: LifeState
    record: dict[str, Any]  #: As it was first written.
    entry: dict[str, Any]  #: The same, in the global registry.
    end: dict[str, Any] = attrs.field(factory=dict)  #: What a record says of its end.
    reported: dict[str, Any] = attrs.field(factory=dict)  #: What it last said of itself.
    is_coming: bool = False  #: It is being deployed: its record may be on its way.
    record_is_over: bool = False  #: Its record was told of its end.
    entry_is_over: bool = False  #: Its entry was taken out.


class EvidenceStore:
    """
    The testimonies of a root's agents, by task; a closed journal is read once.

    Made for one repair: it remembers what cannot change any more.
    """

    def __init__(self, context: RootContext, sagas: Sagas) -> None:
        self._context = context
        self._sagas = sagas
        self._closed: dict[str, Evidence | None] = {}
        self._task_of: dict[str, str] = {}

    def of(self, task_id: str | None = None) -> dict[str, Evidence]:
        """Return the testimonies of one task's agents, or of all, by their ids."""
        found = (self._hear(saga_id, task_id) for saga_id in self._ids())
        return {
            each.agent_id: each
            for each in found
            if each is not None and task_id in (None, each.task_id)
        }

    def _ids(self) -> Iterator[str]:
        journals = self._sagas.journals
        # Open ones first: one that is closed meanwhile is met twice rather than missed.
        yield from dict.fromkeys((*journals.ids(), *journals.closed_ids()))

    def _hear(self, saga_id: str, task_id: str | None) -> Evidence | None:
        if saga_id in self._closed:
            return self._closed[saga_id]
        if task_id is not None and self._task_of.get(saga_id, task_id) != task_id:
            return None
        try:
            reading = self._sagas.journals.read(saga_id)
        except (SagaError, StorageError):
            return None  # Gone by now; or not to be read, and recovery says so.
        heard = _heard(saga_id, reading)
        if heard is not None:
            self._task_of[saga_id] = heard.task_id
        if heard is None or heard.fate in (LifeState.ENDED, LifeState.ROLLED_BACK):
            self._closed[saga_id] = heard
            return heard
        return attrs.evolve(heard, reported=reported(self._context, heard.task_id, saga_id))


def _heard(saga_id: str, reading: ParsedJournal) -> Evidence | None:
    try:
        history = load_history(reading, saga_id)
    except JournalDamaged:
        return _heard_in_part(saga_id, reading)
    except SagaError:
        return None
    task, entry = history.frame("register_task"), history.frame("register_global")
    if task is None or history.labels.get("agent_id", saga_id) != saga_id:
        return None  # It is no agent's; or it adopted what an agent had left that has its own.
    return Evidence(
        agent_id=saga_id,
        task_id=str(task.receipt.get("task_id")),
        fate=_fate(history),
        record=dict(task.receipt.get("record") or {}),
        entry=dict(entry.receipt.get("entry") or {}) if entry else {},
        end=_end(history, {each.kind: each.data for each in reading.entries}),
        is_coming=history.state is State.RUNNING,
        record_is_over=task.outcome is not None,
        entry_is_over=entry is not None and entry.outcome is not None,
    )


def _heard_in_part(saga_id: str, reading: ParsedJournal) -> Evidence | None:
    """Hear a damaged journal as far as its lines check: they tell who the agent is."""
    plans = {
        each.data.get("type"): each.data.get("receipt") or {}
        for each in reading.entries
        if each.kind == "intent"
    }
    task = plans.get("register_task")
    if task is None or task.get("agent_id") != saga_id:
        return None
    return Evidence(
        agent_id=saga_id,
        task_id=str(task.get("task_id")),
        fate=LifeState.UNKNOWN,
        record=dict(task.get("record") or {}),
        entry=dict((plans.get("register_global") or {}).get("entry") or {}),
        is_coming=not any(each.kind == "unwind" for each in reading.entries),
    )


def _fate(history: History) -> LifeState:
    if history.state is State.COMMITTED:
        return LifeState.ALIVE
    is_closed = history.state is State.CLOSED
    if history.why is None:
        return LifeState.ROLLED_BACK if is_closed else LifeState.UNKNOWN
    if history.why.removes_everything:
        return LifeState.ROLLED_BACK if is_closed else LifeState.UNKNOWN
    return LifeState.ENDED if is_closed else LifeState.ENDING


def _end(history: History, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the record of an agent that lived says of its end, as far as it is known."""
    if history.why is None or history.why.removes_everything:
        return {}
    ended_at = str(lines["unwind"].get("at", ""))
    end = final_status(history.why)
    times = end.keys() & {"completed_at", "last_update", "terminated_at"}
    end |= dict.fromkeys(times, ended_at)
    if history.report is not None:
        report = msgspec.convert(history.report, UnwindReport)
        end |= cleanup_record(report, str(lines["close"].get("at", "")))
    return end


# --- what it said of itself ----------------------------------------------------------------------


def reported(context: RootContext, task_id: str, agent_id: str) -> dict[str, Any]:
    """Return what a living agent's files say that its record says: what it last reported."""
    try:
        lines = _lines(context.layout.progress(task_id, agent_id))
        found = _lines(context.layout.findings(task_id, agent_id))
    except InvalidId:
        return {}  # One of the old system's, which has no files of ours.
    said: dict[str, Any] = {}
    for line in lines:
        said |= {"last_update": line.get("timestamp"), "message": line.get("message", "")}
        if line.get("progress") is not None:
            said["progress"] = line["progress"]
        if is_active(line.get("status")):  # A terminal one is for the end to say.
            said["status"] = line.get("status", Status.WORKING.value)
    for line in found[-1:]:
        said["last_update"] = max(str(said.get("last_update", "")), str(line.get("timestamp")))
    return said


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        data = durable.read(path)
    except (FileNotFoundError, StorageError):
        return []
    found: list[dict[str, Any]] = []
    for line in data.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError):
            continue  # Torn.
        if isinstance(value, dict):
            found.append(value)
    return found
