"""
Evidence: what an agent's journal, and its own reports, prove about its record.

The journal holds the record as it was first written and the end as it was decided. The
agent's files hold its last report. From these, a record can be written anew or checked,
whatever has become of its registry.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.deployment.report_reader import json_lines
from orchestrator_core.exceptions import InvalidId, JournalDamaged, SagaError, StorageError
from orchestrator_core.model.outcome import cleanup_record, final_status
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.saga import State
from orchestrator_core.saga.history import History, load_history
from orchestrator_core.saga.report import UnwindReport

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga.encoding import ParsedJournal


class LifeState(enum.Enum):
    """The state of an agent's life, by its journal."""

    ALIVE = "alive"  #: Committed, and its end has not begun.
    ENDING = "ending"  #: Committed once, and its unwinding has begun.
    ENDED = "ended"  #: Committed once, and unwound.
    ROLLED_BACK = "never"  #: Unwound before the commit: the agent never ran.
    UNKNOWN = "unsure"  #: Being deployed or rolled back, or its journal is damaged.


@attrs.frozen(kw_only=True)
class Evidence:
    """All that is known of one agent, apart from its registries."""

    agent_id: str
    task_id: str
    state: LifeState
    record: dict[str, Any]  #: As it was first written.
    entry: dict[str, Any]  #: The same, for the global registry.
    end: dict[str, Any] = attrs.field(factory=dict)  #: The record's fields about the end.
    last_report: dict[str, Any] = attrs.field(factory=dict)  #: The record's fields from reports.
    is_deploying: bool = False  #: The deployment may still write the record.
    record_ended: bool = False  #: The end was written into the record.
    entry_removed: bool = False  #: The global registry's entry was removed.


class EvidenceStore:
    """
    The evidence about a root's agents. A closed journal is read once.

    A store is made for one repair: it caches what cannot change any more.
    """

    def __init__(self, context: RootContext) -> None:
        self._context = context
        self._journals = context.journals
        self._final: dict[str, Evidence | None] = {}
        self._task_ids: dict[str, str] = {}

    def for_task(self, task_id: str | None = None) -> dict[str, Evidence]:
        """Return the evidence about one task's agents, or about all, by agent."""
        # Open journals first: one that closes meanwhile is read twice, not missed.
        saga_ids = dict.fromkeys((*self._journals.ids(), *self._journals.closed_ids()))
        found = (self._load(saga_id, task_id) for saga_id in saga_ids)
        return {each.agent_id: each for each in found if each and task_id in (None, each.task_id)}

    def _load(self, saga_id: str, task_id: str | None) -> Evidence | None:
        if saga_id in self._final:
            return self._final[saga_id]
        if task_id is not None and self._task_ids.get(saga_id, task_id) != task_id:
            return None
        try:
            evidence = _from_journal(saga_id, self._journals.read(saga_id))
        except (SagaError, StorageError):
            return None  # The journal is gone by now, or unreadable; recovery reports that.
        if evidence is None or evidence.state in (LifeState.ENDED, LifeState.ROLLED_BACK):
            self._final[saga_id] = evidence
            return evidence
        self._task_ids[saga_id] = evidence.task_id
        report = last_reported(self._context, evidence.task_id, saga_id)
        return attrs.evolve(evidence, last_report=report)


def _from_journal(saga_id: str, journal: ParsedJournal) -> Evidence | None:
    try:
        history = load_history(journal, saga_id)
    except JournalDamaged:
        return _from_damaged(saga_id, journal)
    except SagaError:
        return None
    task, entry = history.frame("register_task"), history.frame("register_global")
    if task is None or history.labels.get("agent_id", saga_id) != saga_id:
        return None  # Not an agent's saga, or one that adopted an agent's leftovers.
    return Evidence(
        agent_id=saga_id,
        task_id=str(task.receipt.get("task_id")),
        state=_life_state(history),
        record=dict(task.receipt.get("record") or {}),
        entry=dict(entry.receipt.get("entry") or {}) if entry else {},
        end=_end(history, journal),
        is_deploying=history.state is State.RUNNING,
        record_ended=task.outcome is not None,
        entry_removed=entry is not None and entry.outcome is not None,
    )


def _from_damaged(saga_id: str, journal: ParsedJournal) -> Evidence | None:
    """Return what the valid lines of a damaged journal prove: at least the agent's identity."""
    receipts = {
        each.data.get("type"): each.data.get("receipt") or {}
        for each in journal.entries
        if each.kind == "intent"
    }
    task = receipts.get("register_task")
    if task is None or task.get("agent_id") != saga_id:
        return None
    return Evidence(
        agent_id=saga_id,
        task_id=str(task.get("task_id")),
        state=LifeState.UNKNOWN,
        record=dict(task.get("record") or {}),
        entry=dict((receipts.get("register_global") or {}).get("entry") or {}),
        is_deploying=not any(each.kind == "unwind" for each in journal.entries),
    )


def _life_state(history: History) -> LifeState:
    if history.state is State.COMMITTED:
        return LifeState.ALIVE
    is_closed = history.state is State.CLOSED
    if history.why is None or history.why.removes_everything:
        return LifeState.ROLLED_BACK if is_closed else LifeState.UNKNOWN
    return LifeState.ENDED if is_closed else LifeState.ENDING


def _end(history: History, journal: ParsedJournal) -> dict[str, Any]:
    """Return the record's fields about the end, as far as the journal has them."""
    if history.why is None or history.why.removes_everything:
        return {}
    end = final_status(history.why)
    times = end.keys() & {"completed_at", "last_update", "terminated_at"}
    unwound_at = [each.data.get("at", "") for each in journal.entries if each.kind == "unwind"][-1]
    end |= dict.fromkeys(times, str(unwound_at))
    if history.report is not None:
        report = msgspec.convert(history.report, UnwindReport)
        end |= cleanup_record(report, history.closed_at)
    return end


def last_reported(context: RootContext, task_id: str, agent_id: str) -> dict[str, Any]:
    """Return the record's fields from a live agent's last reports, as its files have them."""
    try:
        progress = context.layout.progress(task_id, agent_id)
        findings = context.layout.findings(task_id, agent_id)
    except InvalidId:
        return {}  # A legacy agent, which has no such files.
    fields: dict[str, Any] = {}
    for line in json_lines(progress):
        fields |= {"last_update": line.get("timestamp"), "message": line.get("message", "")}
        if line.get("progress") is not None:
            fields["progress"] = line["progress"]
        if is_active(line.get("status")):  # A terminal status comes from the journal.
            fields["status"] = line.get("status", Status.WORKING.value)
    for line in [*json_lines(findings)][-1:]:
        fields["last_update"] = max(str(fields.get("last_update", "")), str(line.get("timestamp")))
    return fields
