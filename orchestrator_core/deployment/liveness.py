"""
Liveness: whether an agent is dead, why its life ended, and whether this process is part of it.

An agent is dead when its supervisor is dead, which outlives the agent, or when the
supervisor's exit record says that no process is left. From another pid namespace the
supervisor cannot be seen; there it is dead when the kernel has released its run lock.
:class:`Liveness` is also the :class:`~orchestrator_core.saga.recovery.RecoveryPolicy` of a
root's sagas.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.receipt_plan import derive_receipts
from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import (
    JournalDamaged,
    NotFound,
    OutOfSight,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.model import ids
from orchestrator_core.model.bounds import shortened
from orchestrator_core.model.outcome import (
    OutputVerdict,
    decide_end_reason,
    ends_children,
    terminal_reason,
)
from orchestrator_core.model.preset_programs import PROGRAMS
from orchestrator_core.model.spec import is_past_deadline
from orchestrator_core.model.status import Status
from orchestrator_core.registry.operations import descendants_of, find_agent, is_finished
from orchestrator_core.saga import State, Unwind
from orchestrator_core.saga.recovery import RecoveryPolicy
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.supervisor import run_lock
from orchestrator_core.system.processes.exit_record import read_exit_record, read_start_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.predecessor import PredecessorSession
    from orchestrator_core.saga import History, Sagas, StepState
    from orchestrator_core.system.processes.protocol import ExitRecord, Identity, Processes


@attrs.frozen
class Liveness(RecoveryPolicy):
    """The state of the agents of one root. It ends none of them."""

    context: RootContext
    sagas: Sagas

    def is_dead(self, history: History) -> bool:
        """
        Return whether the agent's supervisor is dead, or recorded that no process is left.

        Raises:
            OutOfSight: The supervisor lives in another pid or time namespace.
        """
        if not supervisor_is_alive(self.context.processes, session_receipt(history)):
            return True
        exited = self.exit_record(history)
        return exited is not None and exited.contained

    def is_running_normally(self, history: History) -> bool:
        """Return whether an agent is alive, and its end was not requested."""
        return (
            history.state is State.COMMITTED
            and history.end_request is None
            and self.exit_record(history) is None
            and not self.is_dead(history)
        )

    def exit_record(self, history: History) -> ExitRecord | None:
        """
        Return the supervisor's record of the agent's exit; None if there is none (yet).

        A full disk may have refused the record on disk, so what this process witnessed as the
        supervisor comes first.
        """
        witnessed = self.context.witnessed.get(history.saga_id)
        return witnessed or read_exit_record(session_receipt(history).exit_file)

    # --- why a life ends -----------------------------------------------------------------------

    def unwind_reason(self, history: History) -> Unwind:
        """Return the reason of a saga that is to be unwound."""
        if history.state is State.COMMITTED:
            return self.end_reason(history)
        return history.why or Unwind.recovery("its owner died before the commit")

    def end_reason(self, history: History) -> Unwind:
        """Return the reason for which a dead agent has ended."""
        if _is_legacy(session_receipt(history)) and history.end_request is None:
            recorded = self.context.predecessor.recorded_end(history)
            if recorded is not None:
                return recorded
        exit_record = self.exit_record(history)
        if exit_record is None and self._was_rolled_back(history):
            return Unwind.recovery("its deployment failed, and its commit could not be taken back")
        return self.decide_end_reason(history, exit_record)

    def _was_rolled_back(self, history: History) -> bool:
        """
        Return whether a committed agent never lived: its deployer took the commit for failed.

        That is so if the disk refused to sync the commit and to remove it again. The agent was
        not started, and the rollback has removed the record, which every life has.
        """
        session = session_receipt(history)
        if _is_legacy(session) or history.end_request is not None:
            return False
        if read_start_record(session.selector.run_dir) is not None:
            return False
        document = self.context.task_registry(task_id_of(history)).read_or_none()
        return document is not None and find_agent(document, history.saga_id) is None

    def decide_end_reason(self, history: History, exit_record: ExitRecord | None) -> Unwind:
        """Return the reason for the end of a dead agent, by its exit record and its output."""
        if exit_record is None or history.end_request is not None:
            return decide_end_reason(history, exit_record)
        verdict = self._output_verdict(history, exit_record)
        return decide_end_reason(history, exit_record, verdict)

    def _output_verdict(self, history: History, exit_record: ExitRecord) -> OutputVerdict:
        """Return what the output of a preset's tool says; nothing if it cannot be read."""
        preset = history.labels.get("preset")
        if preset not in PROGRAMS or exit_record.code is None:
            return OutputVerdict()
        from orchestrator_core.presets.log_reader import read_log  # noqa: PLC0415 - for presets

        log = self.context.layout.log(task_id_of(history), history.saga_id)
        try:
            reading = read_log(log, preset)
        except (FileNotFoundError, StorageError):
            return OutputVerdict()
        reason = shortened(reading.reason(exit_record.code))
        if exit_record.code == 0 and reading.lacks_result:
            reason = f"it ended without a result{reason and f': {reason}'}"
            return OutputVerdict(failed=True, reason=reason)
        return OutputVerdict(failed=reading.result.is_error is True, reason=reason)

    def decide_end(self, history: History) -> Unwind | None:
        """Return the reason to unwind a committed agent: its death, or its deadline."""
        if self.is_dead(history):
            return self.end_reason(history)
        if history.end_request is not None:
            # The process that requested the end may have died before it notified.
            self.notify_supervisor(history)
            return None
        if is_past_deadline(history.labels):
            return terminal_reason(Status.TERMINATED, "its deadline passed", by="deadline")
        return None

    def notify_supervisor(self, history: History) -> None:
        """Let an agent's supervisor read the journal, which has a request to end. Idempotent."""
        session = session_receipt(history)
        if _is_legacy(session):
            self.context.predecessor.spawn_unwinder(history.saga_id)
        elif (supervisor := self.find_supervisor(history)) is not None and self._bears_cookie(
            supervisor, history
        ):
            # A supervisor that this process cannot see finds the request when its agent exits;
            # a recovery that sees the supervisor notifies it before.
            with contextlib.suppress(OutOfSight):
                self.context.processes.signal(supervisor, signal.SIGUSR1)

    def find_supervisor(self, history: History) -> Identity | None:
        """Return an agent's supervisor, dead or alive; None if it is dead, without a record."""
        session = session_receipt(history)
        if session.supervisor is not None:
            return session.supervisor
        return self.context.processes.find_supervisor(session.selector)

    def has_lost_commit(self, history: History) -> bool:
        """
        Return whether a saga was committed, and its journal does not say so.

        The agent's supervisor starts nothing, and takes the run lock, only after the commit.
        """
        if history.state is not State.RUNNING or history.frame("spawn_tmux") is None:
            return False
        run_dir = session_receipt(history).selector.run_dir
        return run_dir is not None and (
            read_start_record(run_dir) is not None or run_lock.is_held(run_dir)
        )

    def _bears_cookie(self, supervisor: Identity, history: History) -> bool:
        """Return whether a process has the agent's cookie. That a journal names it is no proof."""
        cookie = ids.process_cookie(
            self.context.root_id, naming_id(history.saga_id, history.labels)
        )
        tagged = self.context.processes.find_tagged(cookie)
        return any((each.identity, each.cookie) == (supervisor, cookie) for each in tagged)

    def wait_linger(self, history: History) -> None:
        """Wait, within the linger period, until an agent without a supervisor has exited."""
        session = session_receipt(history)
        if _is_legacy(session) and session.supervisor is not None:
            linger_s = self.context.patience.default_linger_s()
            self.context.processes.watch(session.supervisor, timeout_s=linger_s)

    # --- whether this process is part of it -------------------------------------------------------

    def includes_self(self, history: History, why: Unwind | None = None) -> bool:
        """Return whether the end of an agent, and of its descendants, ends this process."""
        includes_self = self.context.processes.includes_self
        step = session_step(history)
        if step.outcome is None and includes_self(step.load().selector):
            return True
        if why is not None and not ends_children(why):
            return False
        return any(includes_self(session_receipt(below).selector) for below in self._below(history))

    def _below(self, history: History) -> Iterator[History]:
        """Yield the histories of the agents that end with an agent."""
        document = self.context.task_registry(task_id_of(history)).read_or_none() or {}
        for record in descendants_of(document, history.saga_id):
            if not is_finished(record):
                with contextlib.suppress(SagaNotFound, JournalDamaged):
                    yield self.sagas.history(record["id"])

    def derive_receipts(self, saga_id: str, labels: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the receipts that an agent's id leads to, with its supervisor if that is alive."""
        receipts = derive_receipts(self.context, saga_id, labels)
        session = receipts["spawn_tmux"]
        found = self.context.processes.find_supervisor(session.selector)
        return {**receipts, "spawn_tmux": attrs.evolve(session, supervisor=found)}


def task_id_of(history: History) -> str:
    """Return the id of an agent's task, also if its journal was damaged and lost its labels."""
    step = history.frame("accept_children")
    task_id = history.labels.get("task_id") or (step and step.load().task_id)
    return str(task_id)


def session_receipt(history: History) -> SessionReceipt | PredecessorSession:
    """
    Return the receipt of an agent's session, which its deployment or a predecessor started.

    Raises:
        NotFound: The saga is not an agent's.
    """
    receipt: SessionReceipt | PredecessorSession = session_step(history).load()
    return receipt


def session_step(history: History) -> StepState:
    """Return the state of the step that holds an agent's session; raises as the function above."""
    step = history.frame("spawn_tmux") or history.frame("legacy_session")
    if step is None:
        raise NotFound(f"{history.saga_id!r} is no agent")
    return step


def supervisor_is_alive(processes: Processes, session: SessionReceipt | PredecessorSession) -> bool:
    """
    Return whether a session's supervisor is alive.

    Raises:
        OutOfSight: It lives in another pid or time namespace.
        CouldNotAsk: No record names it, and it may be alive where it cannot be seen.
    """
    if session.supervisor is None:
        return processes.find_supervisor(session.selector) is not None
    try:
        return processes.is_alive(session.supervisor)
    except OutOfSight:
        run_dir = session.selector.run_dir
        if run_dir is not None and run_lock.is_free(run_dir):
            return False
        raise


def _is_legacy(session: SessionReceipt | PredecessorSession) -> bool:
    return not isinstance(session, SessionReceipt)
