"""The facade: deploy agents, read and report while they live, end them, and maintain the root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from orchestrator_core.deployment.context import RootContext
from orchestrator_core.deployment.output_verbs import OutputVerbs, resolve_agent_id
from orchestrator_core.deployment.reports import Reporter, ReportReceipt, check_progress
from orchestrator_core.model.bounds import check_count, check_text
from orchestrator_core.model.layout import open_root
from orchestrator_core.model.status import Status, parse_status
from orchestrator_core.operations.maintenance_verbs import MaintenanceVerbs
from orchestrator_core.registry import new_global
from orchestrator_core.system.deprecation import renamed_keyword
from orchestrator_core.system.lazy import LazyAttribute
from orchestrator_core.system.names import check_id
from orchestrator_core.system.one_timeout import shared_timeout
from orchestrator_core.system.seconds import check_seconds

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from orchestrator_core.deployment.deployer import Deployer
    from orchestrator_core.deployment.predecessor import Predecessor
    from orchestrator_core.deployment.queries import Queries
    from orchestrator_core.deployment.tasks import TaskCreator
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.limits import Limits
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent, ReportedFinding, ReportedProgress, Task
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.operations.alerts import OnFailedCleanup
    from orchestrator_core.saga import History, Observer, RecoveryReport, Step
    from orchestrator_core.system.processes.protocol import GracePeriods, Processes
    from orchestrator_core.system.terminal import Terminal

__all__ = ["Orchestrator", "shared_timeout"]

_UNWINDER_TIMEOUT_S = 600.0  #: The unwinder has no other work than to wait for the agent's lock.


class Orchestrator(OutputVerbs, MaintenanceVerbs):
    """
    All agents below one root.

    Any number may be open on the same root, in threads, in processes and inside agents: each
    sees and ends the same agents, and none needs to be closed. The root is the argument,
    ``ORCHESTRATOR_ROOT``, the nearest ``.agent-workspace`` at or above the working directory,
    or a new one in it; see :func:`orchestrator_core.model.layout.find_root`.
    """

    def __init__(  # noqa: PLR0913 - each can be swapped by itself; all have defaults
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        terminal: Terminal | str | None = None,
        processes: Processes | None = None,
        limits: Limits | None = None,
        patience: GracePeriods | None = None,
        observer: Observer | None = None,
        on_failed_cleanup: OnFailedCleanup | None = None,
        create: bool = True,
        recover: bool = True,
        timeout_s: float = 30.0,
        lock_timeout_s: float = 10.0,
        terminal_timeout_s: float = 10.0,
    ) -> None:
        """
        Open a root, create what is missing, and *recover* what dead owners left.

        Without *create*, a root that was never used is an error. *terminal* names the root's
        terminal class, which the first use records for all processes: ``tmux``, or
        ``package.module:Class``. An object replaces it for this orchestrator, as *processes* does
        for this machine's; see :mod:`.testing`. *patience* is the time that an agent gets at its
        end. *observer* observes sagas, beside the log; see :func:`orchestrator_core.saga.combine`.
        *on_failed_cleanup* is called in a separate thread when a cleanup by this process gets
        STUCK; for other processes, ``orchestrator.toml`` names a command.
        *timeout_s* bounds the wait for another process that ends the same agent,
        *lock_timeout_s* that for a registry, *terminal_timeout_s* each call of the terminal.

        Raises:
            StorageError: The root cannot be used; the message says why.
            NotFound: There is no root, and *create* is False.
            InvalidInput: The root was first used with another terminal.
        """
        name, given = (terminal, None) if isinstance(terminal, str) else (None, terminal)
        found = open_root(root, terminal=name, create=create)
        self._context = RootContext(
            found,
            terminal=given,
            processes=processes,
            limits=limits,
            patience=patience,
            predecessor=_legacy_system,
            rebuild_task=self._rebuild_task,
            rebuild_global=self._rebuild_global,
            lock_timeout_s=lock_timeout_s,
            terminal_timeout_s=terminal_timeout_s,
        )
        self._timeout_s = check_seconds("timeout_s", timeout_s)
        self._observer = observer
        self._on_failed_cleanup = on_failed_cleanup
        self._reporter = Reporter(self._context)
        self.root = found.layout.root
        self.chosen_by = found.chosen_by  #: What led to this root.
        if not found.layout.global_registry.exists():
            # There may be tasks: the legacy system kept its registry elsewhere, or lost it.
            initial = self._rebuild_global() if found.layout.task_ids() else new_global()
            self._context.global_registry.create(initial)
        #: What opening has recovered.
        self.recovery: RecoveryReport | None = self.recover() if recover else None

    # --- the parts: each is imported when it is first used ---------------------------------------

    @LazyAttribute
    def _terminator(self) -> Terminator:
        from orchestrator_core.deployment.terminator import Terminator  # noqa: PLC0415
        from orchestrator_core.saga.logging_observer import LoggingObserver  # noqa: PLC0415
        from orchestrator_core.saga.observer import combine  # noqa: PLC0415

        given = () if self._observer is None else (self._observer,)
        return Terminator(self._context, observer=combine(LoggingObserver(), *given, self._alerts))

    @LazyAttribute
    def _queries(self) -> Queries:
        from orchestrator_core.deployment.queries import Queries  # noqa: PLC0415

        return Queries(self._context)

    @LazyAttribute
    def _deployer(self) -> Deployer:
        from orchestrator_core.deployment.deployer import Deployer  # noqa: PLC0415

        return Deployer(self._context, self._terminator, timeout_s=self._timeout_s)

    @LazyAttribute
    def _task_creator(self) -> TaskCreator:
        from orchestrator_core.deployment.tasks import TaskCreator  # noqa: PLC0415

        return TaskCreator(self._context)

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
        Create a task, for which agents are deployed; durable when this returns.

        A task with the same *key* is returned instead, as long as it is known. *extra* are
        further fields of its registry, JSON values; its ``record`` returns them.

        Raises:
            InvalidInput: The description is empty, or *extra* has a field of every task, or a
                text is too long; see :mod:`orchestrator_core.model.bounds`.
        """
        return self._task_creator.create(
            description, priority=priority, client_cwd=client_cwd, key=key, extra=extra or {}
        )

    def discard_task(self, task_id: str) -> bool:
        """
        Remove a task for which no agent was deployed; durable when this returns.

        For the creator of a task that turned out to need none: nothing else may use the task.
        Return False, and remove nothing, if the task has agents.

        Raises:
            NotFound: There is no such task.
        """
        return self._task_creator.discard(check_id("task", task_id))

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

        When this returns, the agent runs, and all that it holds is recorded. The deployment
        fails if the agent exits within *grace_s*, other than with status 0. After any
        exception, interrupts included, nothing is left, or the error's ``leaked`` names what
        is. If a live agent has the spec's ``key``, that agent is returned. *extra_steps* hold
        more resources for the agent's life, are done first, in the order given, and undone
        last; see :mod:`orchestrator_core.resources`.

        Raises:
            InvalidInput, NotFound: Refused before anything was taken.
            LimitReached: Too many agents, or too deep; nothing is left.
            DeploymentError: It failed; see its attributes.
            TerminalUnavailable: The terminal cannot be used; nothing was taken.
        """
        check_id("task", task_id)
        return self._deployer.deploy(task_id, spec, grace_s=grace_s, extra_steps=extra_steps)

    # --- living ----------------------------------------------------------------------------

    def report_progress(
        self,
        agent_id: str | None = None,
        status: Status | str = Status.WORKING,
        *,
        message: str = "",
        progress: int | None = None,
    ) -> ReportReceipt:
        """
        Record an agent's progress, in per cent; durable when this returns.

        Inside an agent, the environment has its id. A terminal status ends the agent, and the
        receipt's ``end`` is the report. From inside the agent that is ``handed_over``: the
        request is durable, and the supervisor carries it out when the agent has exited, or
        after the linger period. A message of more than 10,000 characters is shortened, with a
        mark.

        Raises:
            InvalidInput: There is no such status, or *progress* is not between 0 and 100.
            NotFound: There is no such agent.
        """
        agent_id, parsed = resolve_agent_id(agent_id), parse_status(status)
        check_text("the message", message)
        check_progress(progress)  # Before an end is requested.
        if not parsed.is_terminal:
            return self._with_end(
                self._reporter.write_progress(agent_id, parsed, message=message, progress=progress)
            )
        why = self._terminator.reason(
            parsed, message or f"it reported {parsed.value!r}", by="report"
        )
        with self._terminator.claim_end(agent_id, why, timeout_s=self._timeout_s) as claim:
            receipt = ReportReceipt(agent_id=agent_id, recorded=False, line={})
            if claim.is_first:
                receipt = self._reporter.write_progress(
                    agent_id, parsed, message=message, progress=progress
                )
            return receipt._replace(end=claim.finish())

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

        After the agent's end nothing is recorded, and the receipt's ``end`` is the report.

        Raises:
            InvalidInput: There is no such severity, or JSON cannot hold the data, or the type
                or the data is too large; see :mod:`orchestrator_core.model.bounds`.
            NotFound: There is no such agent.
        """
        return self._with_end(
            self._reporter.write_finding(
                resolve_agent_id(agent_id),
                message,
                finding_type=finding_type,
                severity=severity,
                data=data,
            )
        )

    def _with_end(self, receipt: ReportReceipt) -> ReportReceipt:
        """Return a receipt with the report of the end that came before it, if one did."""
        if receipt.recorded:
            return receipt
        agent = self._queries.agent(receipt.agent_id)
        return receipt._replace(end=self._terminator.report_or_pending(agent))

    def agent(self, agent_id: str | None = None) -> Agent:
        """
        Return an agent's record.

        Raises:
            NotFound: There is no such agent.
        """
        return self._queries.agent(resolve_agent_id(agent_id))

    def agents(
        self, *, task_id: str | None = None, status: Status | str | None = None
    ) -> list[Agent]:
        """Return the agents of one task or of all; those with a status, or all ``active`` ones."""
        if task_id is not None:
            check_id("task", task_id)
        if status not in (None, "active"):
            parse_status(status)
        return self._queries.agents(task_id=task_id, status=status)

    def task(self, task_id: str) -> Task:
        """
        Return a task's record.

        Raises:
            NotFound: There is no such task.
        """
        return self._queries.task(check_id("task", task_id))

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        return self._queries.tasks()

    def read_findings(
        self, agent_id: str | None = None, *, task_id: str | None = None, last: int | None = None
    ) -> list[ReportedFinding]:
        """
        Return the findings of an agent, or of all agents of a task, oldest first.

        Archived ones are among them. *last* returns only that many, the newest.

        Raises:
            NotFound: There is no such agent, or task.
        """
        check_count("last", last)
        return self._queries.findings(_agent_or_task(agent_id, task_id), task_id, last=last)

    def read_progress(
        self, agent_id: str | None = None, *, task_id: str | None = None, last: int | None = None
    ) -> list[ReportedProgress]:
        """
        Return the progress reports of an agent, or of all agents of a task, oldest first.

        As :meth:`read_findings`.
        """
        check_count("last", last)
        return self._queries.progress(_agent_or_task(agent_id, task_id), task_id, last=last)

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

        Its children are ended first, theirs before them; ``children`` has their reports.
        Without *cascade* they live on, as the orchestrator's: no other end spares them. Of an
        agent that has ended before, the report is returned.

        Raises:
            NotFound: There is no such agent.
            SagaBusy: Another process is ending it, and is not done in time.
        """
        check_text("the reason", reason)
        why = self._terminator.reason(
            Status.TERMINATED, reason, by="terminate", keep_logs=keep_logs, cascade=cascade
        )
        return self._terminator.terminate(
            resolve_agent_id(agent_id), why, timeout_s=self._timeout_s
        )

    def wait(self, agent_id: str | None = None, *, timeout_s: float) -> EndReport:
        """
        Wait until an agent has ended and all it held is given back.

        *timeout_s* is any time; infinity waits for ever.

        Raises:
            WaitTimeout: It is still alive after *timeout_s*.
            NotFound: There is no such agent.
        """
        timeout_s = check_seconds("timeout_s", timeout_s)
        return self._terminator.wait(resolve_agent_id(agent_id), timeout_s=timeout_s)

    def history(self, agent_id: str | None = None) -> History:
        """
        Return the content of an agent's journal: its saga's state, its steps, its end.

        Raises:
            NotFound: There is no such agent.
        """
        return self._terminator.history(resolve_agent_id(agent_id))

    @renamed_keyword("taken", "on_acquired")
    def finish(
        self,
        agent_id: str,
        *,
        on_acquired: Callable[[], object] | None = None,
        witnessed: str | None = None,
    ) -> EndReport:
        """
        End an agent whose main process has exited: for the supervisor, as the unwinder.

        *on_acquired* is called when the agent's lock is held, and no other process ends it.
        *witnessed* is the supervisor's exit record as JSON; a full disk may have refused it.
        """
        return self._terminator.unwind_after_exit(
            check_id("agent", agent_id),
            timeout_s=_UNWINDER_TIMEOUT_S,
            on_acquired=on_acquired,
            witnessed=witnessed,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: agents live on, and the next orchestrator of the root finds them."""


def _legacy_system(context: RootContext) -> Predecessor:
    from orchestrator_core.reconcile.legacy.legacy_system import LegacySystem  # noqa: PLC0415

    return LegacySystem(context)


def _agent_or_task(agent_id: str | None, task_id: str | None) -> str | None:
    """Return the agent that is meant; None for all agents of *task_id*."""
    return None if agent_id is None and task_id is not None else resolve_agent_id(agent_id)
