"""
The one mechanism that ends an agent, whoever asks.

Its deployer, its supervisor become the unwinder, an operator, a recovery: all
come here, take the agent's lock, and unwind its saga. The first one wins; the
others wait for the lock, find the saga closed, and get the same report.

Who is part of what ends cannot end it: it would be killed half-way. It leaves a
durable request, tells the supervisor, and goes on until it is ended by it. What
ends is an agent with its children and theirs: they are ended here as well, one after
another, by the step that accepted them, whose parent's lock is held meanwhile. So
locks are taken from parents to children, and never the other way.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment import cancellation
from orchestrator_core.deployment.liveness import Liveness, session_receipt, task_id_of
from orchestrator_core.deployment.steps import undoing_steps
from orchestrator_core.exceptions import (
    JournalDamaged,
    NotFound,
    SagaBusy,
    SagaNotFound,
    WaitTimeout,
)
from orchestrator_core.model import deadlines
from orchestrator_core.model.outcome import (
    EndReport,
    cleanup_record,
    decide_end_reason,
    terminal_reason,
)
from orchestrator_core.model.status import Status
from orchestrator_core.reconcile.legacy.session_step import EndLegacySession, LegacySessionReceipt
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.resources.step_registry import StepRegistry
from orchestrator_core.saga import Reason, Sagas, State, Unwind
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import History, Observer, RecoveryReport, UnwindReport


_CHILD_LOCK_TIMEOUT_S = 30.0  #: For somebody else who ends the same child, or deploys it.


class Terminator:
    """The ends of all agents of one root."""

    def __init__(self, context: RootContext, *, observer: Observer | None = None) -> None:
        self.context = context
        self.steps = StepRegistry(
            [*undoing_steps(context), EndLegacySession(context)],
            modules=lambda: context.settings.steps.modules,
        )
        self.sagas = Sagas(
            context.layout.sagas,
            steps=self.steps,
            finalizer=self._write_cleanup_result,
            observer=observer,
        )
        self.liveness = Liveness(context, self.sagas)
        context.end_child = self.end_child

    def history(self, agent_id: str) -> History:
        """
        Return what has happened to an agent's saga.

        Raises:
            NotFound: There never was such an agent.
        """
        try:
            return self.sagas.history(agent_id)
        except SagaNotFound:
            raise NotFound(f"there is no agent {agent_id!r}") from None

    def history_or_report(self, agent_id: str, why: Unwind | None = None) -> History | EndReport:
        """
        Return what has happened to an agent that is to be ended, or its report.

        One that the system before this one has left gets a journal for it here.

        Raises:
            NotFound: There never was such an agent.
            CouldNotAsk: It is an old one, and what is its is unknown.
        """
        try:
            return self.history(agent_id)
        except NotFound:
            from orchestrator_core.reconcile.legacy.adoption import adopt_if_needed  # noqa: PLC0415 - seldom needed

            told = self._report_from_record(agent_id)
            if told is not None:
                return told
            return adopt_if_needed(self.context, self.sagas, agent_id, why=why) or self.history(
                agent_id
            )

    def terminate(
        self,
        agent_id: str,
        why: Unwind,
        *,
        timeout_s: float,
        on_first: Callable[[], object] | None = None,
    ) -> EndReport:
        """
        End an agent, once; whoever comes later gets the report of the first end.

        *before* is called if this end is the first one, when that is durable or
        no longer in doubt, and before anything is undone.

        Raises:
            NotFound: There never was such an agent.
            SagaBusy: Somebody else is at it, and was not done within *timeout_s*.
        """
        end = functools.partial(
            self._terminate_open, agent_id, why, timeout_s=timeout_s, on_first=on_first
        )
        return self._or_stored_report(agent_id, why, end)

    def _terminate_open(
        self,
        agent_id: str,
        why: Unwind,
        *,
        timeout_s: float,
        on_first: Callable[[], object] | None,
    ) -> EndReport:
        with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
            history = saga.history
            is_first = saga.state is State.COMMITTED and history.end_request is None
            if saga.state is State.CLOSED:
                return self.report(agent_id)
            if not self.liveness.includes_self(history, why):
                if is_first and on_first is not None:
                    on_first()
                return self._full_report(
                    saga.unwind(why if is_first else self.liveness.unwind_reason(history))
                )
            if saga.state is State.COMMITTED and saga.request_end(why) and on_first is not None:
                on_first()
        return self._request_from_inside(history, why)

    def _or_stored_report(
        self, agent_id: str, why: Unwind, end: Callable[[], EndReport]
    ) -> EndReport:
        """
        Call *end*, which takes up an open saga, or report how the agent has ended.

        One that the old system has left may have no saga yet; it gets one, and is ended.
        """
        try:
            return end()
        except SagaNotFound:
            pass
        except SagaBusy:
            # Its owner may have been stopped between closing it and putting it away.
            if self.history(agent_id).state is not State.CLOSED:
                raise
            return self.report(agent_id)
        past = self.history_or_report(agent_id, why)
        if isinstance(past, EndReport):
            return past
        with contextlib.suppress(SagaNotFound):
            if past.state is not State.CLOSED:
                return end()
        return self.report(agent_id)

    def end_child(self, agent_id: str, why: Unwind) -> EndReport:
        """
        End an agent with its parent, for *why*; one that is dead already has an end of its own.

        Raises:
            NotFound: There never was such an agent.
            SagaBusy: Somebody else is at it, and was not done in time.
        """
        end = functools.partial(self._end_child, agent_id, why)
        return self._or_stored_report(agent_id, why, end)

    def _end_child(self, agent_id: str, why: Unwind) -> EndReport:
        with self.sagas.open(agent_id, timeout_s=_CHILD_LOCK_TIMEOUT_S) as saga:
            if saga.state is State.CLOSED:
                return self.report(agent_id)
            own = (
                None
                if self._is_running_normally(saga.history)
                else self.liveness.unwind_reason(saga.history)
            )
            return self._full_report(saga.unwind(own or why))

    def _is_running_normally(self, history: History) -> bool:
        """Whether nothing but the end of its parent ends an agent."""
        return (
            history.state is State.COMMITTED
            and history.end_request is None
            and self.liveness.exit_record(history) is None
            and not self.liveness.is_dead(history)
        )

    def _full_report(self, report: UnwindReport) -> EndReport:
        """Return the report of an end, with the whole of its children's."""
        end = EndReport.from_unwind(report)
        return attrs.evolve(end, children=tuple(map(self._child_report, end.children)))

    def _child_report(self, in_short: EndReport) -> EndReport:
        try:
            return self.report(in_short.agent_id)
        except (NotFound, JournalDamaged):
            return in_short

    def _request_from_inside(self, history: History, why: Unwind) -> EndReport:
        """Tell the supervisor of an end that was asked for, and live until it comes."""
        self._notify_supervisor(history)
        chosen = history.end_request or history.why or why
        return EndReport(
            agent_id=history.saga_id,
            status=chosen.detail.get("status", ""),
            reason=chosen.message,
            by=chosen.detail.get("by", ""),
            handed_over=True,
        )

    def _notify_supervisor(self, history: History) -> None:
        """Wake the supervisor of an agent whose end was asked for; it looks at the journal."""
        session = session_receipt(history)
        if isinstance(session, LegacySessionReceipt):
            from orchestrator_core.reconcile.legacy.adoption import spawn_unwinder  # noqa: PLC0415 - as below

            spawn_unwinder(self.context, history.saga_id)  # It has no supervisor.
        elif session.supervisor is not None:
            self.context.processes.signal(session.supervisor, signal.SIGUSR1)

    def unwind_after_exit(
        self, agent_id: str, *, timeout_s: float, on_acquired: Callable[[], object] | None = None
    ) -> EndReport:
        """
        End an agent whose process is over: what its supervisor, become the unwinder, does.

        *taken* is called when the agent is ours to end, and nobody else ends it any more.

        Raises:
            SagaBusy: Somebody else is at it, and was not done within *timeout_s*.
        """
        self._wait_linger(agent_id)
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if on_acquired is not None:
                    on_acquired()
                return self._full_report(saga.unwind(self.liveness.unwind_reason(saga.history)))
        except SagaNotFound:
            return self.report(agent_id)

    def _wait_linger(self, agent_id: str) -> None:
        """Let an agent that has no supervisor to do so leave by itself, for a moment."""
        with contextlib.suppress(SagaNotFound, JournalDamaged):
            session = session_receipt(self.sagas.history(agent_id))
            if isinstance(session, LegacySessionReceipt) and session.supervisor is not None:
                linger_s = self.context.patience.linger_s
                self.context.processes.watch(session.supervisor, timeout_s=linger_s)

    def decide_grace(self, agent_id: str, *, timeout_s: float) -> UnwindReport | None:
        """
        Decide a deployment's grace: from now on a failure is an end, not a failed deployment.

        Returns the report if the agent is over and its end decided, None if it
        lives, or has finished well and is being seen off by its supervisor.
        """
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if saga.state is not State.COMMITTED:
                    return saga.unwind(self.liveness.unwind_reason(saga.history))
                exited = self.liveness.exit_record(saga.history)
                if exited is None and not self.liveness.is_dead(saga.history):
                    saga.note("settled")
                    return None
                why = decide_end_reason(saga.history, exited)
                return saga.unwind(why) if why.removes_everything else None
        except SagaNotFound:
            return self.sagas.report(agent_id)

    def wait(self, agent_id: str, *, timeout_s: float) -> EndReport:
        """
        Wait until an agent has been ended, by whomever, and return the report.

        If it dies and nobody sees to it, that is done here.

        Raises:
            WaitTimeout: It lives on.
            NotFound: There never was such an agent.
        """
        deadline = time.monotonic() + timeout_s
        history = self.history_or_report(agent_id)
        if isinstance(history, EndReport):
            return history
        if history.state is State.CLOSED:
            return self.report(agent_id)
        supervisor = session_receipt(history).supervisor
        if history.end_request is not None:
            # Who asked may have died before it told the supervisor; to be told twice is no harm.
            self._notify_supervisor(history)
        if supervisor is not None:
            call = cancellation.current()
            wake = None if call is None else call.cancelled_fd
            seen = self.context.processes.watch(supervisor, timeout_s=timeout_s, fd=wake)
            if not seen.exited:  # Its time is over, or nobody wants to know any more.
                raise WaitTimeout(f"agent {agent_id!r} was still alive after {timeout_s:g} s")
        return self._unwind_dead(agent_id, timeout_s=max(deadline - time.monotonic(), 0.0))

    def _unwind_dead(self, agent_id: str, *, timeout_s: float) -> EndReport:
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if self.liveness.includes_self(saga.history):
                    raise WaitTimeout(
                        f"agent {agent_id!r} is dead, and somebody else has to end it"
                    )
                return self._full_report(saga.unwind(self.liveness.unwind_reason(saga.history)))
        except SagaNotFound:
            return self.report(agent_id)

    def report(self, agent_id: str) -> EndReport:
        """
        Return how an agent was ended.

        Raises:
            NotFound: It has not been ended, or never was.
        """
        try:
            return self._full_report(self.sagas.report(agent_id))
        except SagaNotFound:
            told = self._report_from_record(agent_id)
            if told is None:
                raise NotFound(f"agent {agent_id!r} has not ended") from None
            return told

    def _report_from_record(self, agent_id: str) -> EndReport | None:
        """Return how an agent ended whose journal retention has removed."""
        from orchestrator_core.deployment.ended_records import report_from_record  # noqa: PLC0415 - seldom needed

        end = report_from_record(self.context, agent_id)
        if end is None:
            return None
        return attrs.evolve(end, children=tuple(map(self._child_report, end.children)))

    def recover(self, *, only: str | None = None, force: bool = False) -> RecoveryReport:
        """Finish what dead owners left, and end the agents that are dead or past their deadline."""
        return self.sagas.recover(policy=self, only=only, force=force)

    def abandon(self, agent_id: str, step: str, *, reason: str) -> None:
        """Give up a step of a stuck saga; see :meth:`Orchestrator.abandon`."""
        import getpass  # noqa: PLC0415 - for one rare act

        with self.sagas.open(agent_id, timeout_s=self.context.lock_timeout_s) as saga:
            saga.abandon(step, by=f"{getpass.getuser()} (pid {os.getpid()})", reason=reason)

    # --- whose life is over, and why -----------------------------------------------------------

    def decide_end(self, history: History) -> Unwind | None:
        """Return why an agent is to be ended; None if it lives on."""
        if self.liveness.is_dead(history):
            return self.liveness.end_reason(history)
        if history.end_request is not None:
            self._notify_supervisor(history)  # As in wait.
            return None
        if deadlines.is_expired(history.labels):
            return terminal_reason(Status.TERMINATED, "its deadline passed", by="deadline")
        return None

    def derive_receipts(self, agent_id: str, labels: Any) -> dict[str, Any]:  # noqa: ANN401 - a mapping
        """Return the receipts an agent's id leads to, for a journal that has lost its own."""
        from orchestrator_core.reconcile.rebuild import derive_receipts  # noqa: PLC0415 - for disasters only

        return derive_receipts(self.context, agent_id, labels)

    def includes_self(self, history: History) -> bool:
        """Return whether ending an agent would end the calling process."""
        return self.liveness.includes_self(history)

    def rebuild_task(self, task_id: str) -> dict[str, Any]:
        """Return a task's registry from all that is known, for one that was damaged."""
        from orchestrator_core.reconcile.rebuild import task_document  # noqa: PLC0415 - as above

        return task_document(self.context, self.sagas, task_id)

    def rebuild_global(self) -> dict[str, Any]:
        """Return the global registry from all that is known, for one that was damaged."""
        from orchestrator_core.reconcile.rebuild import global_document  # noqa: PLC0415 - as above

        return global_document(self.context, self.sagas)

    # --- what the record keeps of it -------------------------------------------------------------

    def _write_cleanup_result(self, report: UnwindReport, history: History) -> None:
        """Write what became of an agent into its record, when all of it is known."""
        if report.why.reason is not Reason.TERMINAL:
            return
        task_id = task_id_of(history)
        cleanup = cleanup_record(report, timestamp())
        agent_id = cleanup["auto_cleanup_result"]["agent_id"]
        try:
            with self.context.task_registry(task_id).transaction() as document:
                record = find_agent(document, agent_id)
                if record is None:
                    return
                if agent_id == report.saga_id or not record.get("auto_cleanup_result"):
                    record |= cleanup
                else:  # What was left of it has been swept up: its end stays as it was told.
                    swept = record.setdefault("swept", {})
                    swept[report.saga_id] = cleanup["auto_cleanup_result"]
        except NotFound:
            return  # The task is gone, and its records with it.
