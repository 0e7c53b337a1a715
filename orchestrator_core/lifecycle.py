"""
The one mechanism that ends an agent, whoever asks.

Its deployer, its supervisor become the unwinder, an operator, a recovery: all
come here, take the agent's lock, and unwind its saga. The first one wins; the
others wait for the lock, find the saga closed, and get the same report.

Who is part of what ends cannot end it: it would be killed half-way. It leaves a
durable request, tells the supervisor, and goes on until it is ended by it.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from orchestrator_core._clock import timestamp
from orchestrator_core.agents import Status
from orchestrator_core.endings import EndReport, ended, verdict
from orchestrator_core.exceptions import NotFound, SagaNotFound, WaitTimeout
from orchestrator_core.processes.witness import read_exit
from orchestrator_core.records import find_agent
from orchestrator_core.saga import Reason, Sagas, State, Unwind
from orchestrator_core.steps import SessionReceipt, undoing_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.processes.port import Exit
    from orchestrator_core.saga import History, Observer, RecoveryReport, UnwindReport
    from orchestrator_core.world import World


class Lifecycle:
    """The ends of all agents of one root."""

    def __init__(self, world: World, *, observer: Observer | None = None) -> None:
        self.world = world
        self.sagas = Sagas(
            world.places.sagas,
            steps=undoing_steps(world),
            epilogue=self._enter_result,
            observer=observer,
        )

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

    def end(
        self,
        agent_id: str,
        why: Unwind,
        *,
        timeout_s: float,
        before: Callable[[], object] | None = None,
    ) -> EndReport:
        """
        End an agent, once; whoever comes later gets the report of the first end.

        *before* is called if this end is the first one, when that is durable or
        no longer in doubt, and before anything is undone.

        Raises:
            NotFound: There never was such an agent.
            SagaBusy: Somebody else is at it, and was not done within *timeout_s*.
        """
        history = self.history(agent_id)
        if history.state is State.CLOSED:
            return self.report(agent_id)
        if self._is_inside(history):
            return self._hand_over(agent_id, why, timeout_s=timeout_s, before=before)
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if saga.state is State.COMMITTED and saga.history.request is None:
                    if before is not None:
                        before()
                    return EndReport.of(saga.unwind(why))
                return EndReport.of(saga.unwind(self._why(saga.history)))
        except SagaNotFound:
            return self.report(agent_id)  # Somebody else was first.

    def _hand_over(
        self,
        agent_id: str,
        why: Unwind,
        *,
        timeout_s: float,
        before: Callable[[], object] | None,
    ) -> EndReport:
        """Record the end, tell the supervisor, and live until it comes."""
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if saga.state is State.COMMITTED and saga.request_end(why) and before is not None:
                    before()
                history = saga.history
        except SagaNotFound:
            return self.report(agent_id)
        self._tell_supervisor(history)
        chosen = history.request or history.why or why
        return EndReport(
            agent_id=agent_id,
            status=chosen.detail.get("status", ""),
            reason=chosen.message,
            by=chosen.detail.get("by", ""),
            handed_over=True,
        )

    def _tell_supervisor(self, history: History) -> None:
        """Wake the supervisor of an agent whose end was asked for; it looks at the journal."""
        supervisor = _session(history).supervisor
        if supervisor is not None:
            self.world.processes.signal(supervisor, signal.SIGUSR1)

    def finish(
        self, agent_id: str, *, timeout_s: float, taken: Callable[[], object] | None = None
    ) -> EndReport:
        """
        End an agent whose process is over: what its supervisor, become the unwinder, does.

        *taken* is called when the agent is ours to end, and nobody else ends it any more.

        Raises:
            SagaBusy: Somebody else is at it, and was not done within *timeout_s*.
        """
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if taken is not None:
                    taken()
                return EndReport.of(saga.unwind(self._why(saga.history)))
        except SagaNotFound:
            return self.report(agent_id)

    def settle(self, agent_id: str, *, timeout_s: float) -> UnwindReport | None:
        """
        Decide a deployment's grace: from now on a failure is an end, not a failed deployment.

        Returns the report if the agent is over and its end decided, None if it
        lives, or has finished well and is being seen off by its supervisor.
        """
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                if saga.state is not State.COMMITTED:
                    return saga.unwind(self._why(saga.history))
                witnessed = self._witnessed(saga.history)
                if witnessed is None and not self._is_over(saga.history):
                    saga.note("settled")
                    return None
                why = verdict(saga.history, witnessed)
                return saga.unwind(why) if why.leaves_nothing else None
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
        history = self.history(agent_id)
        if history.state is State.CLOSED:
            return self.report(agent_id)
        supervisor = _session(history).supervisor
        if supervisor is not None:
            seen = self.world.processes.watch(supervisor, timeout_s=timeout_s)
            if not seen.gone:
                raise WaitTimeout(f"agent {agent_id!r} was still alive after {timeout_s:g} s")
        return self._reap(agent_id, timeout_s=max(deadline - time.monotonic(), 0.0))

    def _reap(self, agent_id: str, *, timeout_s: float) -> EndReport:
        try:
            with self.sagas.open(agent_id, timeout_s=timeout_s) as saga:
                return EndReport.of(saga.unwind(self._why(saga.history)))
        except SagaNotFound:
            return self.report(agent_id)

    def report(self, agent_id: str) -> EndReport:
        """
        Return how an agent was ended.

        Raises:
            NotFound: It has not been ended, or never was.
        """
        try:
            return EndReport.of(self.sagas.report(agent_id))
        except SagaNotFound:
            raise NotFound(f"agent {agent_id!r} has not ended") from None

    def recover(self, *, only: str | None = None, force: bool = False) -> RecoveryReport:
        """Finish what dead owners left, and end the agents that are dead or past their deadline."""
        return self.sagas.recover(
            verdict=self._verdict, replan=self._replan, only=only, force=force
        )

    def abandon(self, agent_id: str, step: str, *, reason: str) -> None:
        """Give up a step of a stuck saga; see :meth:`Orchestrator.abandon`."""
        import getpass  # noqa: PLC0415 - for one rare act

        with self.sagas.open(agent_id, timeout_s=self.world.lock_timeout_s) as saga:
            saga.abandon(step, by=f"{getpass.getuser()} (pid {os.getpid()})", reason=reason)

    # --- whose life is over, and why -----------------------------------------------------------

    def _verdict(self, history: History) -> Unwind | None:
        if self._is_over(history):
            # From inside it, unwinding it would end us half-way; somebody else will.
            inside = self._is_inside(history)
            return None if inside else verdict(history, self._witnessed(history))
        if history.request is not None:
            # Who asked may have died before it told the supervisor; to be told twice is no harm.
            self._tell_supervisor(history)
            return None
        deadline_at = history.labels.get("deadline_at")
        if deadline_at is not None and time.time() >= deadline_at:
            return ended(Status.TERMINATED, "its deadline passed", by="deadline")
        return None

    def _is_over(self, history: History) -> bool:
        """Whether the agent is dead: its supervisor is, which outlives it to tell of it."""
        supervisor = _session(history).supervisor
        return supervisor is None or not self.world.processes.is_alive(supervisor)

    def _why(self, history: History) -> Unwind:
        if history.state is State.COMMITTED:
            return verdict(history, self._witnessed(history))
        return history.why or Unwind.recovery("its owner died before the commit")

    def _witnessed(self, history: History) -> Exit | None:
        return read_exit(_session(history).exit_file)

    def _is_inside(self, history: History) -> bool:
        return self.world.processes.is_inside(_session(history).claim)

    def _replan(self, agent_id: str, labels: Any) -> dict[str, Any]:  # noqa: ANN401 - a mapping
        """Return the receipts an agent's id leads to, for a journal that has lost its own."""
        from orchestrator_core.rebuild import replanned  # noqa: PLC0415 - for disasters only

        return replanned(self.world, agent_id, labels)

    def rebuild_task(self, task_id: str) -> dict[str, Any]:
        """Return a task's registry as its journals know it, for one that was damaged."""
        from orchestrator_core.rebuild import task_document  # noqa: PLC0415 - as above

        return task_document(self.world, self.sagas, task_id)

    # --- what the record keeps of it -------------------------------------------------------------

    def _enter_result(self, report: UnwindReport) -> None:
        """Write what became of an agent into its record, when all of it is known."""
        if report.why.reason is not Reason.TERMINAL:
            return
        task_id = self.sagas.history(report.saga_id).labels.get("task_id")
        result = EndReport.of(report).to_dict()
        # The journal keeps them; every record is written anew with each update of its registry.
        del result["steps"]

        def enter(document: dict[str, Any]) -> None:
            record = find_agent(document, report.saga_id)
            if record is not None:
                record["auto_cleanup_result"] = result
                record["auto_cleanup_timestamp"] = timestamp()
                record["auto_cleanup_error"] = "; ".join(result["errors"]) or None

        try:
            self.world.task_registry(str(task_id)).update(enter)
        except NotFound:
            return  # The task is gone, and its records with it.


def _session(history: History) -> SessionReceipt:
    frame = history.frame("spawn_tmux")
    if frame is None:
        raise NotFound(f"{history.saga_id!r} is no agent")
    receipt: SessionReceipt = frame.load()
    return receipt
