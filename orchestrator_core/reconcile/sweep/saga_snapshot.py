"""
The open journals of a root, and whether the kernel confirms what they say.

Most agents are well and cost one read: the journal says "committed", the supervisor is
among the processes of the snapshot, and the deadline lies ahead. Every other journal is
read again under the lock that an owner holds, and only that second read counts.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.liveness import session_receipt, supervisor_is_alive
from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import JournalDamaged, NotFound, OrchestratorError, SagaNotFound
from orchestrator_core.model.spec import is_past_deadline
from orchestrator_core.reconcile.sweep.findings import FindingSubject
from orchestrator_core.saga import State
from orchestrator_core.system.names import is_id
from orchestrator_core.system.processes.exit_record import read_exit_record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator_core.deployment.predecessor import PredecessorSession
    from orchestrator_core.reconcile.sweep.findings import Finding, FindingKind
    from orchestrator_core.saga import History
    from orchestrator_core.saga.store import JournalStore
    from orchestrator_core.system.processes.protocol import (
        ExitRecord,
        Identity,
        PaneState,
        Processes,
    )


@attrs.frozen(kw_only=True)
class SagaState:
    """One open saga, as a snapshot shows it."""

    saga_id: str
    history: History | None = None  #: None for a damaged or unreadable journal.
    receipt: SessionReceipt | PredecessorSession | None = None  #: Of the session, if it has one.
    damage: str = ""  #: Why the journal cannot be used.
    unknown: str = ""  #: What could not be read, and why.
    has_owner: bool = False  #: A live process holds the lock, to deploy or to end the agent.
    is_dead: bool = False  #: The saga is committed, and its supervisor is dead.
    exit: ExitRecord | None = None  #: The supervisor's exit record, if there is one.
    pane: PaneState | None = None  #: The supervisor's pane, if the snapshot lists no session of it.
    past_deadline: bool = False
    is_unlisted: bool = False  #: It lives, and the snapshot lists no session of it.
    wrote_at: float | None = None  #: Time of the log's last write, in seconds since 1970.

    @property
    def labels(self) -> Mapping[str, Any]:
        """The journal's labels; empty for an unreadable journal."""
        return {} if self.history is None else self.history.labels

    @property
    def agent_id(self) -> str:
        """The agent that the saga accounts for. An adopting saga has another id."""
        return str(self.labels.get("agent_id") or self.saga_id)

    @property
    def task_id(self) -> str | None:
        """The agent's task, if the journal names it."""
        task_id = self.labels.get("task_id")
        return None if task_id is None else str(task_id)

    @property
    def session(self) -> SessionReceipt | None:
        """The receipt of a session on this root's own server; None for a legacy session."""
        return self.receipt if isinstance(self.receipt, SessionReceipt) else None

    @property
    def supervisor(self) -> Identity | None:
        """The process whose death is the agent's, if the journal names it."""
        return None if self.receipt is None else self.receipt.supervisor

    @property
    def is_alive(self) -> bool:
        """Whether the agent is alive, as far as the snapshot shows."""
        committed = self.history is not None and self.history.state is State.COMMITTED
        return committed and not (self.has_owner or self.is_dead or self.unknown)

    @property
    def is_unreachable(self) -> bool:
        """
        Whether the agent lives in a session that the terminal does not list.

        The supervisor lives, recorded no exit and still has its terminal, so its session lives,
        too. The terminal was asked at a wrong place: its socket was removed, say.
        """
        is_hung_up = self.pane is not None and self.pane.hung_up
        return self.is_unlisted and not is_hung_up

    def finding(self, kind: FindingKind, what: str, *proofs: str, subject: str = "") -> Finding:
        """Return a finding about the saga: by default, about its agent."""
        about = FindingSubject(self.agent_id, self.task_id, subject or f"agent {self.agent_id}")
        return about.finding(kind, what, *proofs, saga_id=self.saga_id)


def read_sagas(
    journals: JournalStore,
    processes: Processes,
    running: Collection[Identity] | None,
    sessions: Collection[str] | None,
) -> dict[str, SagaState]:
    """
    Read all open journals; return their states by saga id.

    *running* are the live processes of the snapshot. With None, no agent is judged dead.
    *sessions* are the names of its sessions. For an agent without a session, the exit record
    is read: its supervisor may be the unwinder by now, which ends the session first. Without
    a record, the supervisor's pane shows whether the session is gone.

    Raises:
        StorageError: The journals cannot be listed.
    """
    states: dict[str, SagaState] = {}
    for saga_id in filter(is_id, journals.ids()):
        state = _read(journals, processes, running, saga_id)
        if state is not None:
            states[saga_id] = _with_details_unless_in(sessions, state, processes)
    return states


def _with_details_unless_in(
    sessions: Collection[str] | None, state: SagaState, processes: Processes
) -> SagaState:
    """Return *state* with the exit record and the pane of a supervisor without a session."""
    if sessions is None or state.session is None or state.session.session in sessions:
        return state
    try:
        found = attrs.evolve(state, exit=read_exit_record(state.session.exit_file))
        if found.exit is not None or not found.is_alive or found.supervisor is None:
            return found
        return attrs.evolve(found, is_unlisted=True, pane=processes.pane_of(found.supervisor))
    except OrchestratorError as error:
        return attrs.evolve(state, unknown=str(error))


def _read(
    journals: JournalStore, processes: Processes, running: Collection[Identity] | None, saga_id: str
) -> SagaState | None:
    """Return the state of one saga; None if it has closed."""
    try:
        # Perhaps a write in progress damages it: read it again under its lock.
        with contextlib.suppress(JournalDamaged):
            state = _from_history(journals.open_history(saga_id))
            if _is_well(state, running):
                return state
        return _read_locked(journals, processes, saga_id, can_ask=running is not None)
    except SagaNotFound:
        return None
    except JournalDamaged as error:
        return SagaState(saga_id=saga_id, damage=str(error))
    except OrchestratorError as error:
        return SagaState(saga_id=saga_id, unknown=f"journal of {saga_id}: {error}")


def _from_history(history: History) -> SagaState:
    receipt = None
    with contextlib.suppress(NotFound):
        receipt = session_receipt(history)
    return SagaState(
        saga_id=history.saga_id,
        history=history,
        receipt=receipt,
        past_deadline=history.state is State.COMMITTED and is_past_deadline(history.labels),
        wrote_at=_log_written_at(history),
    )


def _is_well(state: SagaState, running: Collection[Identity] | None) -> bool:
    is_running = state.receipt is None or running is None or state.supervisor in running
    return state.is_alive and not state.past_deadline and is_running


def _read_locked(
    journals: JournalStore, processes: Processes, saga_id: str, *, can_ask: bool
) -> SagaState | None:
    history = journals.history_if_unowned(saga_id)
    if history is None:
        with contextlib.suppress(JournalDamaged):  # Its owner is writing it.
            history = journals.open_history(saga_id)  # For its labels only.
        return SagaState(saga_id=saga_id, history=history, has_owner=True)
    state = _from_history(history)
    if history.state is not State.COMMITTED or state.receipt is None or not can_ask:
        return state
    if supervisor_is_alive(processes, state.receipt):
        return state
    return attrs.evolve(state, is_dead=True, exit=read_exit_record(state.receipt.exit_file))


def _log_written_at(history: History) -> float | None:
    frame = history.frame("tee_log")
    if frame is None or history.state is not State.COMMITTED:
        return None
    try:
        return os.stat(frame.receipt["log"]).st_mtime  # noqa: PTH116 - once per agent
    except OSError:
        return None
