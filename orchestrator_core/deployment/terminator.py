"""
The terminator: the one mechanism that ends an agent.

The deployer, the supervisor that became the unwinder, an operator and a recovery all use
it. Each takes the agent's lock and unwinds the agent's saga. The first one wins; the others
wait for the lock, find the saga closed, and return the same report.

A process that is part of what ends would be killed half-way. It records a durable request
instead, notifies the supervisor, and goes on until the supervisor ends it. A process in
another pid namespace, which cannot see the agent, records a request as well: the supervisor
or a recovery that sees the agent carries it out.

An agent ends with its children. The step that accepted them ends them, one after another,
while the parent's lock is held: locks are taken from parents to children, never the other way.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment import cancellation
from orchestrator_core.deployment.liveness import Liveness, task_id_of
from orchestrator_core.deployment.lost_journal import restore_journal
from orchestrator_core.deployment.steps import STEPS
from orchestrator_core.deployment.task_lookup import find_record
from orchestrator_core.exceptions import (
    CouldNotAsk,
    JournalDamaged,
    NotFound,
    OutOfSight,
    SagaBusy,
    SagaNotFound,
    WaitTimeout,
)
from orchestrator_core.model.bounds import shortened
from orchestrator_core.model.outcome import EndReport, cleanup_record, terminal_reason
from orchestrator_core.registry.operations import find_agent, is_finished
from orchestrator_core.resources.step_registry import StepRegistry
from orchestrator_core.saga import Reason, Saga, Sagas, State, Unwind
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.one_timeout import shared_timeout
from orchestrator_core.system.processes.exit_record import decode_exit_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.records import Agent
    from orchestrator_core.saga import History, Observer, RecoveryReport, UnwindReport

_CHILD_LOCK_TIMEOUT_S = 30.0  #: For another process that ends or deploys the same child.


class Terminator:
    """The ends of all agents of one root."""

    reason = staticmethod(terminal_reason)

    def __init__(self, context: RootContext, *, observer: Observer | None = None) -> None:
        self.context = context
        self.steps = StepRegistry(
            [*(step(context, terminator=self) for step in STEPS), *context.predecessor.steps()],
            declared=lambda: (context.settings.steps.modules, context.settings.steps.path),
        )
        self.sagas = Sagas(
            context.layout.sagas,
            steps=self.steps,
            finalizer=self._write_cleanup_result,
            observer=observer,
        )
        self.liveness = Liveness(context, self.sagas)

    # --- one end: open, decide, unwind, write the result ---------------------------------------

    def terminate(self, agent_id: str, why: Unwind, *, timeout_s: float) -> EndReport:
        """
        End an agent, once; every later caller gets the report of the first end.

        Raises:
            NotFound: There never was such an agent.
            SagaBusy: Another process held the agent's lock for longer than *timeout_s*.
        """
        with self.claim_end(agent_id, why, timeout_s=timeout_s) as claim:
            return claim.finish()

    @contextlib.contextmanager
    def claim_end(self, agent_id: str, why: Unwind, *, timeout_s: float) -> Iterator[EndClaim]:
        """
        Hold an agent's lock, with the decision how it ends and why; nothing is undone yet.

        Raises:
            NotFound, SagaBusy: As in :meth:`terminate`.
        """
        saga = self._open_or_report(agent_id, why, timeout_s=timeout_s)
        if isinstance(saga, EndReport):
            yield EndClaim(self, why, earlier_end=saga)
            return
        with saga:
            is_running = saga.state is State.COMMITTED
            obstacle = None
            try:
                includes_self = self.liveness.includes_self(saga.history, why)
            except OutOfSight as error:
                if not is_running:
                    raise
                includes_self, obstacle = False, error
            if includes_self or obstacle is not None:
                is_first = is_running and saga.history.end_request is None
                yield EndClaim(
                    self, why, saga, is_first=is_first, by_another=True, obstacle=obstacle
                )
            elif is_running and saga.history.end_request is None:
                yield EndClaim(self, why, saga, is_first=True)
            else:
                yield EndClaim(self, self.liveness.unwind_reason(saga.history), saga)

    def _open_or_report(
        self, agent_id: str, why: Unwind | None = None, *, timeout_s: float
    ) -> Saga | EndReport:
        """Take an agent's saga, with its lock, or return the report of its end."""
        for _ in range(2):  # A legacy agent gets its journal in between.
            try:
                saga = self._open_whole(agent_id, timeout_s=timeout_s)
            except SagaBusy:
                # Its owner may have been stopped between closing and archiving the journal.
                if self.history(agent_id).state is not State.CLOSED:
                    raise
                break
            except SagaNotFound:
                past = self.history_or_report(agent_id, why)
                if isinstance(past, EndReport):
                    return past
            else:
                if saga.state is not State.CLOSED:
                    return saga
                saga.release()
                break
        return self.report(agent_id)

    def _open_whole(self, agent_id: str, *, timeout_s: float) -> Saga:
        """Take a saga; recovery first rebuilds a journal that is damaged or has lost its commit."""
        with contextlib.suppress(JournalDamaged):
            saga = self.sagas.open(agent_id, timeout_s=timeout_s)
            if not self.liveness.has_lost_commit(saga.history):
                return saga
            saga.release()
        failed = self.recover(only=agent_id).failed
        if failed:
            raise CouldNotAsk(f"agent {agent_id!r} was left as it is: {failed[agent_id]}")
        return self.sagas.open(agent_id, timeout_s=timeout_s)

    def unwind(self, saga: Saga, why: Unwind | None = None) -> EndReport:
        """Undo all that an agent holds, for *why* or for what the journal says."""
        why = why or self.liveness.unwind_reason(saga.history)
        with shared_timeout():  # With the children's ends.
            return self._with_children(EndReport.from_unwind(saga.unwind(why)))

    def hand_over(self, saga: Saga, why: Unwind, obstacle: OutOfSight | None = None) -> EndReport:
        """
        Request an end, durably, and leave it to the supervisor, or to a process that sees it.

        Raises:
            StorageError: The request could not be recorded. Nothing ends.
        """
        if saga.state is State.COMMITTED:
            saga.request_end(why)
        saga.release()
        self.liveness.notify_supervisor(saga.history)
        chosen = saga.history.end_request or saga.history.why or why
        return EndReport(
            agent_id=saga.saga_id,
            status=chosen.detail.get("status", ""),
            reason=chosen.message,
            by=chosen.detail.get("by", ""),
            handed_over=True,
            errors=() if obstacle is None else (f"{obstacle}; {obstacle.hint}",),
        )

    def _write_cleanup_result(self, report: UnwindReport, history: History) -> None:
        """Write the result of an unwinding into the agent's record, before its saga closes."""
        if report.why.reason is not Reason.TERMINAL:
            return
        cleanup = cleanup_record(report, timestamp())
        agent_id = cleanup["auto_cleanup_result"]["agent_id"]
        registry = self.context.task_registry(task_id_of(history))
        registry.restore()
        # A task that is gone took its records with it.
        with contextlib.suppress(NotFound), registry.transaction() as document:
            record = find_agent(document, agent_id)
            if record is None:
                return
            if agent_id == report.saga_id or not record.get("auto_cleanup_result"):
                record |= cleanup
            else:  # A sweep found leftovers of an ended agent, whose own report stays.
                swept = record.setdefault("swept", {})
                swept[report.saga_id] = cleanup["auto_cleanup_result"]

    # --- other ends ------------------------------------------------------------------------------

    def terminate_child(self, agent_id: str, why: Unwind) -> EndReport:
        """
        End an agent with its parent, for *why*; a child that is dead already keeps its own end.

        Raises:
            NotFound: There never was such an agent.
            SagaBusy: Another process held the child's lock for 30 s.
        """
        saga = self._open_or_report(agent_id, why, timeout_s=_CHILD_LOCK_TIMEOUT_S)
        if isinstance(saga, EndReport):
            return saga
        with saga:
            return self.unwind(
                saga, why if self.liveness.is_running_normally(saga.history) else None
            )

    def unwind_after_exit(
        self,
        agent_id: str,
        *,
        timeout_s: float,
        on_acquired: Callable[[], object] | None = None,
        witnessed: str | None = None,
    ) -> EndReport:
        """
        End an agent whose process has exited: the work of the unwinder.

        *on_acquired* is called when the agent's lock is held, so that no other process ends it.
        *witnessed* is the exit record of the supervisor that this process was, as JSON.

        Raises:
            SagaBusy: Another process held the lock for longer than *timeout_s*.
        """
        record = decode_exit_record(witnessed)
        if record is not None:
            self.context.witnessed[agent_id] = record
        with contextlib.suppress(SagaNotFound, JournalDamaged):
            self.liveness.wait_linger(self.sagas.history(agent_id))
        saga = self._open_or_report(agent_id, timeout_s=timeout_s)
        if isinstance(saga, EndReport):
            return saga
        with saga:
            if on_acquired is not None:
                on_acquired()
            return self.unwind(saga)

    def decide_grace(self, agent_id: str, *, timeout_s: float) -> UnwindReport | None:
        """
        End a deployment's grace: a later failure is an end, not a failed deployment.

        Returns the report if the agent has ended; None if it is alive, or has finished well
        and its supervisor unwinds it.
        """
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if saga.state is State.CLOSED:  # Its owner died before it archived the journal.
                    return self.sagas.report(agent_id)
                is_committed = saga.state is State.COMMITTED
                if not is_committed and not self.liveness.has_lost_commit(saga.history):
                    return saga.unwind(self.liveness.unwind_reason(saga.history))
                exited = self.liveness.exit_record(saga.history)
                if exited is None and not self.liveness.is_dead(saga.history):
                    saga.note("settled")
                    return None
                why = self.liveness.decide_end_reason(saga.history, exited)
                return saga.unwind(why) if why.removes_everything else None
        except SagaNotFound:
            return self.sagas.report(agent_id)

    def wait(self, agent_id: str, *, timeout_s: float) -> EndReport:
        """
        Wait until an agent has ended, and return the report of its end.

        An agent that dies while no other process unwinds it is unwound here.

        Raises:
            WaitTimeout: It is still alive after *timeout_s*.
            NotFound: There never was such an agent.
        """
        deadline = time.monotonic() + timeout_s
        try:
            history = self.history_or_report(agent_id)
        except JournalDamaged:
            saga = self._open_or_report(agent_id, timeout_s=timeout_s)
            if isinstance(saga, EndReport):
                return saga
            saga.release()  # Its journal is whole now.
            history = self.history_or_report(agent_id)
        if isinstance(history, EndReport):
            return history
        if history.end_request is not None:
            # The process that requested the end may have died before it notified.
            self.liveness.notify_supervisor(history)
        supervisor = self.liveness.find_supervisor(history)
        if supervisor is not None:
            scope = cancellation.current.scope
            cancelled_fd = None if scope is None else scope.cancelled_fd
            seen = self.context.processes.watch(supervisor, timeout_s=timeout_s, fd=cancelled_fd)
            if not seen.exited:  # Or the call was cancelled, and this error is dropped.
                raise WaitTimeout(f"agent {agent_id!r} was still alive after {timeout_s:g} s")
        return self._unwind_dead(agent_id, timeout_s=max(deadline - time.monotonic(), 0.0))

    def _unwind_dead(self, agent_id: str, *, timeout_s: float) -> EndReport:
        try:
            saga = self._open_or_report(agent_id, timeout_s=timeout_s)
        except SagaBusy as busy:
            raise WaitTimeout(f"agent {agent_id!r} is dead, and not unwound yet: {busy}") from busy
        if isinstance(saga, EndReport):
            return saga
        with saga:
            if self.liveness.includes_self(saga.history):
                raise WaitTimeout(f"agent {agent_id!r} is dead, and only a process outside ends it")
            return self.unwind(saga)

    def recover(self, *, only: str | None = None, force: bool = False) -> RecoveryReport:
        """Finish what dead owners left; end the agents that are dead or past their deadline."""
        with shared_timeout():
            return self.sagas.recover(policy=self.liveness, only=only, force=force)

    def abandon(self, agent_id: str, step: str, *, reason: str) -> None:
        """Give up a step of a stuck saga; see :meth:`Orchestrator.abandon`."""
        with self.sagas.open(agent_id, timeout_s=self.context.lock_timeout_s) as saga:
            by = f"{_user_name()} (pid {os.getpid()})"
            saga.abandon(step, by=by, reason=shortened(reason))

    # --- what is known of an end ---------------------------------------------------------------

    def history(self, agent_id: str) -> History:
        """
        Return the history of an agent's saga, open or closed.

        Raises:
            NotFound: There never was such an agent.
        """
        try:
            return self.sagas.history(agent_id)
        except SagaNotFound:
            raise NotFound(f"there is no agent {agent_id!r}") from None

    def history_or_report(self, agent_id: str, why: Unwind | None = None) -> History | EndReport:
        """
        Return the history of an agent that has not ended, or the report of its end.

        A living agent whose journal was removed gets it again. An agent of the predecessor
        without a journal gets one; *why* is the reason if it is to be unwound at once.

        Raises:
            NotFound: There never was such an agent.
            CouldNotAsk: What belongs to the agent is unknown.
        """
        try:
            history = self.sagas.history(agent_id)
        except SagaNotFound:
            report = self._recorded_report(agent_id)
            if report is not None:
                return self._with_children(report)
            if restore_journal(self.context, self.sagas, agent_id):
                return self.history(agent_id)
            adopted = self.context.predecessor.adopt(self.sagas, agent_id, why)
            return adopted or self.history(agent_id)
        return self.report(agent_id) if history.state is State.CLOSED else history

    def report(self, agent_id: str) -> EndReport:
        """
        Return how an agent was ended, from its journal or, without one, from its record.

        Raises:
            NotFound: It has not been ended, or never was.
        """
        try:
            report: EndReport | None = EndReport.from_unwind(self.sagas.report(agent_id))
        except SagaNotFound:
            report = self._recorded_report(agent_id)
        if report is None:
            raise NotFound(f"agent {agent_id!r} has not ended")
        return self._with_children(report)

    def _recorded_report(self, agent_id: str) -> EndReport | None:
        """Return the report in an agent's record, for a journal that retention has removed."""
        found = find_record(self.context, agent_id)
        if found is None or not is_finished(found[1]) or self.context.predecessor.wrote(found[1]):
            return None
        return EndReport.from_record(found[1])

    def report_or_pending(self, agent: Agent) -> EndReport:
        """Return how an agent with an ended record was ended, also while its unwinding goes on."""
        try:
            return self.report(agent.id)
        except NotFound:
            if self.context.predecessor.wrote(agent.record):
                return self.context.predecessor.report(agent)
            return EndReport(
                agent_id=agent.id, status=agent.status, reason=agent.end_reason, handed_over=True
            )

    def _with_children(self, report: EndReport) -> EndReport:
        """Return a report with the whole reports of the children in it."""
        return attrs.evolve(report, children=tuple(map(self._child_report, report.children)))

    def _child_report(self, summary: EndReport) -> EndReport:
        try:
            return self.report(summary.agent_id)
        except (NotFound, JournalDamaged):
            return summary


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's uid may have no name.
        return f"uid {os.getuid()}"


@attrs.frozen
class EndClaim:
    """
    The right to end an agent, or the knowledge that it has ended.

    ``is_first`` is True for the end that counts: no other can overtake it, and nothing of it is
    durable yet. A last report of the agent is written then. If that is refused, nothing ends.
    """

    _terminator: Terminator
    _why: Unwind
    _saga: Saga | None = None
    is_first: bool = attrs.field(default=False, kw_only=True)
    _by_another: bool = attrs.field(default=False, kw_only=True)  #: Only that can carry it out.
    _obstacle: OutOfSight | None = attrs.field(default=None, kw_only=True)
    _earlier_end: EndReport | None = attrs.field(default=None, kw_only=True)

    def finish(self) -> EndReport:
        """Unwind the agent, or let its supervisor do so, and return the report."""
        if self._saga is None:
            assert self._earlier_end is not None  # noqa: S101 - one of the two is there
            return self._earlier_end
        if self._by_another:
            return self._terminator.hand_over(self._saga, self._why, self._obstacle)
        return self._terminator.unwind(self._saga, self._why)
