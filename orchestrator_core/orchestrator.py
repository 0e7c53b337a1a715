"""The front door: deploy agents, live with them, end them."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Self

from orchestrator_core.deployment.context import RootContext
from orchestrator_core.deployment.reports import Reporter, ReportReceipt
from orchestrator_core.exceptions import InvalidInput, NotFound
from orchestrator_core.model.environment import ENV_AGENT
from orchestrator_core.model.layout import open_root
from orchestrator_core.model.status import Status, parse_status
from orchestrator_core.registry import new_global
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from orchestrator_core.deployment.deployer import Deployer
    from orchestrator_core.deployment.queries import Queries
    from orchestrator_core.deployment.report_reader import ReportedFinding, ReportedProgress
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.limits import Limits
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent, Task
    from orchestrator_core.model.settings import Settings
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.operations.alerts import Alerts, OnFailedCleanup
    from orchestrator_core.operations.metrics import Stats
    from orchestrator_core.operations.retention import ExportReport, GcReport
    from orchestrator_core.presets.result import AgentResult
    from orchestrator_core.reconcile.repair import RepairReport
    from orchestrator_core.reconcile.sweep.findings import SweepReport
    from orchestrator_core.saga import History, Observer, RecoveryReport, Step, Unwind
    from orchestrator_core.system.processes.protocol import GracePeriods, Processes
    from orchestrator_core.system.terminal import Terminal

__all__ = ["Orchestrator"]


class Orchestrator:
    """
    All agents below one root.

    Opening one recovers what dead owners left there. Any number may be open on
    the same root at once, in threads, in processes and inside agents; all of
    them see and end the same agents, and none needs to be told to close.

    ``root`` is found as :func:`orchestrator_core.model.layout.find_root` says: the
    argument, ``ORCHESTRATOR_ROOT``, the nearest ``.agent-workspace`` above the
    working directory, or a new one in it.
    """

    def __init__(  # noqa: PLR0913 - each can be swapped by itself; all have defaults
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        terminal: Terminal | None = None,
        processes: Processes | None = None,
        limits: Limits | None = None,
        patience: GracePeriods | None = None,
        observer: Observer | None = None,
        on_failed_cleanup: OnFailedCleanup | None = None,
        recover: bool = True,
        timeout_s: float = 30.0,
        lock_timeout_s: float = 10.0,
        terminal_timeout_s: float = 10.0,
    ) -> None:
        """
        Open a root, and make it if it is missing.

        *terminal* and *processes* stand in for tmux and this machine's processes:
        see :mod:`orchestrator_core.testing`. *timeout_s* bounds the wait for
        somebody else who is ending the same agent, *lock_timeout_s* that for a
        registry, *terminal_timeout_s* each call to tmux. *observer* watches sagas, beside the
        log; for several, see :func:`orchestrator_core.saga.combine`. *on_failed_cleanup*
        is called, in a thread of its own, when one of our own cleanups gets STUCK; for those
        that are carried out by other processes, name a command in ``orchestrator.toml``.

        Raises:
            StorageError: The root cannot be used; the message says why.
        """
        found = open_root(root)
        self._context = RootContext(
            found,
            terminal=terminal,
            processes=processes,
            limits=limits,
            patience=patience,
            lock_timeout_s=lock_timeout_s,
            terminal_timeout_s=terminal_timeout_s,
        )
        self._timeout_s = timeout_s
        self._context.rebuild_task = self._rebuild_task
        self._context.rebuild_global = self._rebuild_global
        self._observer = observer
        self._on_failed_cleanup = on_failed_cleanup
        self._reporter = Reporter(self._context, lambda: self._terminator)
        self.root = found.layout.root
        self.chosen_by = found.chosen_by  #: What led to this root.
        if not found.layout.global_registry.exists():
            # There may be tasks already: the old system kept it elsewhere once, or lost it.
            has_past = bool(found.layout.task_ids())
            self._context.global_registry.create(
                self._rebuild_global() if has_past else new_global()
            )
        self.recovery: RecoveryReport | None = None  #: What opening has recovered.
        if recover:
            self.recovery = self.recover()

    @property
    def settings(self) -> Settings:
        """What ``orchestrator.toml`` in the root says, and the defaults for the rest."""
        return self._context.settings

    @property
    def damaged(self) -> list[dict[str, str]]:
        """The registries found damaged since this was opened: which, where it is kept, and why."""
        return [
            {"registry": str(aside.registry), "kept": str(aside.kept), "why": aside.why}
            for aside in self._context.quarantined
        ]

    @functools.cached_property
    def _terminator(self) -> Terminator:
        # Made when first used: an agent's progress report needs none of it, and is not to
        # pay for its import.
        from orchestrator_core.deployment.terminator import Terminator  # noqa: PLC0415 - see above
        from orchestrator_core.saga.logging_observer import LoggingObserver  # noqa: PLC0415 - see above
        from orchestrator_core.saga.observer import combine  # noqa: PLC0415 - see above

        given = () if self._observer is None else (self._observer,)
        watching = combine(LoggingObserver(), *given, self._alerts)
        return Terminator(self._context, observer=watching)

    @functools.cached_property
    def _queries(self) -> Queries:
        from orchestrator_core.deployment.queries import Queries  # noqa: PLC0415 - as the lifecycle

        return Queries(self._context, self._reporter.task_of)

    @functools.cached_property
    def _alerts(self) -> Alerts:
        from orchestrator_core.operations.alerts import Alerts  # noqa: PLC0415 - as the lifecycle

        return Alerts(self._context, self._on_failed_cleanup)

    def _rebuild_task(self, task_id: str) -> dict[str, Any]:
        return self._terminator.rebuild_task(task_id)

    def _rebuild_global(self) -> dict[str, Any]:
        return self._terminator.rebuild_global()

    @functools.cached_property
    def _deployer(self) -> Deployer:
        from orchestrator_core.deployment.deployer import Deployer  # noqa: PLC0415 - as the lifecycle

        return Deployer(self._context, self._terminator, timeout_s=self._timeout_s)

    # --- deploying ---------------------------------------------------------------------------

    def create_task(
        self,
        description: str,
        *,
        priority: str = "P2",
        client_cwd: str | None = None,
        key: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Task:
        """
        Make a task, which agents are deployed for; durable when this returns.

        The same *key* makes one task: it is returned as long as it is known. *extra* are
        further fields of its registry, JSON values; its ``record`` returns them.

        Raises:
            InvalidInput: The description is empty, or *extra* has a field of every task.
        """
        from orchestrator_core.deployment.tasks import create_task  # noqa: PLC0415 - as the lifecycle

        return create_task(
            self._context,
            description,
            priority=priority,
            client_cwd=client_cwd,
            key=key,
            extra=extra or {},
        )

    def deploy(
        self,
        task_id: str,
        spec: AgentSpec,
        *,
        grace_s: float = 0.0,
        extra_steps: Sequence[Step[Any]] = (),
    ) -> Agent:
        """
        Deploy an agent: all of it, or nothing.

        When this returns, the agent runs, and everything it holds is recorded.
        If it dies within *grace_s*, other than by finishing with exit status 0,
        the deployment has failed. Any exception, interrupts included, means that
        nothing is left, or that the error's ``leaked`` names what is. A spec with
        a ``key`` under which an agent lives returns that agent.

        *extra_steps* hold more for the agent, as long as it lives: see
        :mod:`orchestrator_core.resources`. They are done first, in the order given, and
        undone last; a step of your own must be declared, so that others can undo it.

        Raises:
            InvalidInput, NotFound: Refused before anything was taken.
            LimitReached: Too many, or too deep; nothing is left.
            DeploymentError: It failed; see its attributes.
            TerminalUnavailable: There is no tmux that we can use.
        """
        check_id("task", task_id)
        deployed = self._deployer.deploy(task_id, spec, grace_s=grace_s, extra_steps=extra_steps)
        try:
            return self._queries.agent(deployed, task_hint=task_id)
        except BaseException:
            if spec.key is None:  # Else it may be one that lived before.
                self.terminate(deployed, reason="its deployer was interrupted")
            raise

    # --- living ----------------------------------------------------------------------------

    def report_progress(
        self,
        agent_id: str | None = None,
        status: str = Status.WORKING.value,
        *,
        message: str = "",
        progress: int | None = None,
    ) -> ReportReceipt:
        """
        Record what an agent is up to; durable when this returns.

        A terminal status ends the agent, and the receipt's ``end`` tells how. From
        inside the agent's own session that is ``handed_over``: recorded durably,
        and carried out by its supervisor once the agent has had a moment to leave.
        Inside an agent, *agent_id* is found in the environment. *progress* is per cent.

        Raises:
            InvalidInput: No such status.
            NotFound: No such agent.
        """
        agent_id = _agent_id(agent_id)
        meant = parse_status(status)

        def record() -> ReportReceipt:
            return self._reporter.write_progress(
                agent_id, meant, message=message, progress=progress
            )

        if not meant.is_terminal:
            return record()
        from orchestrator_core.model.outcome import terminal_reason  # noqa: PLC0415 - for ends only

        why = terminal_reason(meant, message or f"it reported {meant.value!r}", by="report")
        return self._record_and_end(agent_id, why, record)

    def _record_and_end(
        self, agent_id: str, why: Unwind, record: Callable[[], ReportReceipt]
    ) -> ReportReceipt:
        receipts: list[ReportReceipt] = []
        end = self._terminator.terminate(
            agent_id,
            why,
            timeout_s=self._timeout_s,
            on_first=lambda: receipts.append(record()),
        )
        if receipts:
            return receipts[0]._replace(end=end)
        return ReportReceipt(agent_id=agent_id, recorded=False, line={}, end=end)

    def report_finding(
        self,
        agent_id: str | None = None,
        message: str = "",
        *,
        finding_type: str = "finding",
        severity: str = "info",
        data: dict[str, Any] | None = None,
    ) -> ReportReceipt:
        """
        Record something that an agent has found; durable when this returns.

        After the agent's end nothing is recorded, and the receipt's ``end`` tells of it.

        Raises:
            InvalidInput: No such severity, or data that JSON cannot hold.
            NotFound: No such agent.
        """
        return self._reporter.write_finding(
            _agent_id(agent_id), message, finding_type=finding_type, severity=severity, data=data
        )

    def agent(self, agent_id: str | None = None) -> Agent:
        """
        Return what is known of an agent.

        Raises:
            NotFound: There is none of that id.
        """
        return self._queries.agent(_agent_id(agent_id))

    def agents(self, *, task_id: str | None = None, status: str | None = None) -> list[Agent]:
        """Return the agents of one task or of all; those with a status, or all ``active`` ones."""
        if task_id is not None:
            check_id("task", task_id)
        if status not in (None, "active"):
            parse_status(str(status))
        return self._queries.agents(task_id=task_id, status=status)

    def task(self, task_id: str) -> Task:
        """
        Return what is known of a task.

        Raises:
            NotFound: There is none of that id.
        """
        return self._queries.task(check_id("task", task_id))

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        return self._queries.tasks()

    def read_output(self, agent_id: str | None = None, *, tail: int | None = None) -> str:
        """
        Return what an agent has written, or the last *tail* lines of it.

        The log is found wherever it is by now: with a living agent, or archived.

        Raises:
            NotFound: There is no such agent.
        """
        return self._queries.output(_agent_id(agent_id), tail=tail)

    def read_findings(
        self,
        agent_id: str | None = None,
        *,
        task_id: str | None = None,
        last: int | None = None,
    ) -> list[ReportedFinding]:
        """
        Return what an agent has found, or all agents of a task, oldest first.

        Found wherever it is by now: with a living agent, or archived. *last* takes
        only the newest so many.

        Raises:
            NotFound: There is no such agent, or task.
        """
        from orchestrator_core.deployment import report_reader as reported  # noqa: PLC0415 - few read them

        where, whose = self._resolve_task_and_agent(agent_id, task_id)
        return reported.read_findings(self._context.layout, where, whose, last=last)

    def read_progress(
        self,
        agent_id: str | None = None,
        *,
        task_id: str | None = None,
        last: int | None = None,
    ) -> list[ReportedProgress]:
        """
        Return an agent's reports of its progress, or of all agents of a task, oldest first.

        As :meth:`read_findings`.

        Raises:
            NotFound: There is no such agent, or task.
        """
        from orchestrator_core.deployment import report_reader as reported  # noqa: PLC0415 - as above

        where, whose = self._resolve_task_and_agent(agent_id, task_id)
        return reported.read_progress(self._context.layout, where, whose, last=last)

    def _resolve_task_and_agent(
        self, agent_id: str | None, task_id: str | None
    ) -> tuple[str, str | None]:
        """Return whose reports are meant: a task, and one of its agents or all."""
        if agent_id is None and task_id is not None:
            return self.task(task_id).id, None
        agent = self.agent(agent_id)
        if task_id not in (None, agent.task_id):
            raise NotFound(f"task {task_id!r} has no agent {agent.id!r}")
        return agent.task_id, agent.id

    def read_result(self, agent_id: str | None = None) -> AgentResult:
        """
        Return what an agent's own output says of its result: its last message, answer, cost.

        The log, wherever it is by now, is read from its end, in bounded memory. Each
        field is None if the output does not say it; all are, if it is not the stream of
        a tool that has a preset. It is what was written there, and proves nothing.

        Raises:
            NotFound: There is no such agent.
            StorageError: Its log cannot be read.
        """
        return self._queries.result(_agent_id(agent_id))

    # --- ending ----------------------------------------------------------------------------

    def terminate(
        self,
        agent_id: str | None = None,
        *,
        reason: str = "terminated",
        keep_logs: bool = True,
        cascade: bool = True,
    ) -> EndReport:
        """
        End an agent and give back all it held; its log is archived, or else deleted.

        The agents that it is the parent of are ended first, theirs before them; the
        report has theirs in ``children``. Without *cascade* they live on, as the
        orchestrator's own. However an agent ends, its children end with it: only
        this call can spare them.

        An agent that has ended before is not ended again: its report is returned.

        Raises:
            NotFound: There is no such agent.
            SagaBusy: Somebody else is ending it, and is not done in time.
        """
        from orchestrator_core.model.outcome import terminal_reason  # noqa: PLC0415 - as above

        why = terminal_reason(
            Status.TERMINATED, reason, by="terminate", keep_logs=keep_logs, cascade=cascade
        )
        return self._terminator.terminate(_agent_id(agent_id), why, timeout_s=self._timeout_s)

    def wait(self, agent_id: str | None = None, *, timeout_s: float) -> EndReport:
        """
        Wait until an agent has ended and all it held is given back.

        Raises:
            WaitTimeout: It lives on after *timeout_s*.
            NotFound: There is no such agent.
        """
        return self._terminator.wait(_agent_id(agent_id), timeout_s=timeout_s)

    def recover(self, agent_id: str | None = None, *, force: bool = False) -> RecoveryReport:
        """
        Finish what dead owners left, and end agents that died or outlived their deadline.

        Safe at any time and beside others; doing it twice comes to the same as
        once. With *force*, what is STUCK is tried again at once.

        Raises:
            SagaNotFound: The one that was asked for is not there, or is closed.
        """
        only = None if agent_id is None else check_id("agent", agent_id)
        return self._terminator.recover(only=only, force=force)

    def abandon(self, agent_id: str, step: str, *, reason: str) -> None:
        """
        Give up a step of a STUCK agent: what it holds may remain.

        Its journal keeps the *reason*, and who gave it, for ever; the next
        :meth:`recover` counts the step as dealt with.

        Raises:
            SagaNotFound: There is no open saga of that agent.
            SagaError: It is not stuck, or has no such step.
        """
        self._terminator.abandon(check_id("agent", agent_id), step, reason=reason)

    def history(self, agent_id: str | None = None) -> History:
        """
        Return what an agent's journal tells: its saga's state, its steps, its end.

        Raises:
            NotFound: There is no such agent.
        """
        return self._terminator.history(_agent_id(agent_id))

    def finish(self, agent_id: str, *, taken: Callable[[], object] | None = None) -> EndReport:
        """
        End an agent whose main process is over.

        For its supervisor, which calls this when it has become the unwinder. *taken*
        is called as soon as the agent is ours alone to end.
        """
        return self._terminator.unwind_after_exit(
            check_id("agent", agent_id), timeout_s=_UNWINDER_TIMEOUT_S, on_acquired=taken
        )

    # --- looking after the root -----------------------------------------------------------------

    def sweep(self, *, reap: bool = False, silent_after_s: float | None = None) -> SweepReport:
        """
        Find what no saga accounts for, and the sagas that nobody sees to.

        It looks at everything once, however many agents there are, and compares it
        with the journals. What could not be asked is in the report's ``unknown``, and
        is left alone. With *reap*, each finding that is ours by two proofs is ended
        by a saga's unwinding; what cannot be reaped is in the report, and stops nothing
        else. Safe at any time, beside others who sweep, deploy or end.

        An agent is silent if it has neither written nor reported for longer than its
        spec's ``silent_after_s``, or *silent_after_s*, or what ``orchestrator.toml`` says.
        """
        from orchestrator_core.operations import metrics  # noqa: PLC0415 - as the lifecycle
        from orchestrator_core.reconcile.sweep.run import sweep  # noqa: PLC0415 - as above

        if silent_after_s is None:
            silent_after_s = self._context.settings.sweep.silent_after_s
        report = sweep(
            self._terminator,
            reaping=reap,
            silent_after_s=silent_after_s,
            timeout_s=self._timeout_s,
        )
        fresh = set(metrics.record_sweep(self._context, report))
        for one in report.reaped:
            # A saga that got STUCK has told of itself.
            if not one.success and one.end is None and one.finding in fresh:
                self._alerts.reaping_failed(one.finding.subject, one.message)
        return report

    # --- keeping the past within bounds --------------------------------------------------------

    def stats(self) -> Stats:
        """
        Count how cleaning up has gone, ever since this root's first end, and what lives now.

        Raises:
            RegistryDamaged: What is remembered of journals that are gone cannot be read.
        """
        from orchestrator_core.operations import metrics  # noqa: PLC0415 - as the lifecycle

        return metrics.stats(self._context, self._terminator.sagas)

    def gc(self, *, dry_run: bool = False) -> GcReport:
        """
        Remove what has been kept for long enough, and compress the rest, as the settings have it.

        Only archived files of agents that are over, and their closed journals, which
        are counted first. What cannot be removed is in the report, and stops nothing
        else. With *dry_run* nothing is changed, and the report says what would be.

        Raises:
            InvalidInput: The settings make no sense.
            LockTimeout: Somebody else is at it.
            StorageError: It cannot be told what living agents hold; nothing was removed.
        """
        from orchestrator_core.operations.retention.collect import collect  # noqa: PLC0415 - as above

        return collect(self._context, self._terminator.sagas, dry_run=dry_run)

    def export_task(
        self, task_id: str, target: str | os.PathLike[str], *, remove: bool = False
    ) -> ExportReport:
        """
        Write a finished task, whole, into one new tar file; durable and read back when it returns.

        With *remove* it is then gone from here, directory and journals: all of it or none.

        Raises:
            NotFound: There is no such task.
            TaskRunning: An agent of it lives, or is not given back yet. Nothing was done.
            InvalidInput: The target is there already, or inside of the task.
            StorageError: It could not be written or read back; nothing is removed.
        """
        from orchestrator_core.operations.retention.exporting import export  # noqa: PLC0415 - as above

        return export(
            self._context,
            self._terminator.sagas,
            check_id("task", task_id),
            target,
            remove=remove,
        )

    def repair(
        self, task_id: str | None = None, *, only_global: bool = False, dry_run: bool = False
    ) -> RepairReport:
        """
        Put registries right by all that is known: one task's, the global one, or all.

        What a journal contradicts is corrected, what was lost is made anew from
        journals, reports and whatever can be read of damaged copies; nothing that only
        the registry knows is lost, and nobody is ended. With *dry_run* nothing is
        changed, and the report says what would be.

        Raises:
            NotFound: There is no such task.
        """
        from orchestrator_core.reconcile.repair import repair  # noqa: PLC0415 - as the lifecycle

        return repair(
            self._context,
            self._terminator.sagas,
            task_id=task_id,
            only_global=only_global,
            dry_run=dry_run,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to do: agents live on, and whoever opens the root next finds them."""


_UNWINDER_TIMEOUT_S = 600.0  #: It has nothing else to do, and whom it waits for may end it.


def _agent_id(given: str | None) -> str:
    """Return the agent that is meant: the one that was named, or the one we are inside of."""
    if given is None:
        given = os.environ.get(ENV_AGENT)
        if given is None:
            raise InvalidInput(
                "no agent was named, and we are not inside of one",
                hint=f"name one, or set {ENV_AGENT}",
            )
    return check_id("agent", given)
