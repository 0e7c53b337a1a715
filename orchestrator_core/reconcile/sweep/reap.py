"""
Reap: end each reapable finding through the saga that holds its resources.

This module ends nothing by itself. Recovery unwinds an open saga. A saga adopts what no
saga accounts for, and is unwound. Repair rewrites a registry from the journals. Each of the
three checks again under its own locks whether work is left, so any number of sweeps and
other enders of the same agent come to the same single end.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment.lost_journal import restore_journal
from orchestrator_core.exceptions import NotFound, OrchestratorError, SagaNotFound
from orchestrator_core.model.outcome import EndReport, terminal_reason
from orchestrator_core.model.status import Status
from orchestrator_core.reconcile.repair import repair
from orchestrator_core.reconcile.sweep.adopt import adopt
from orchestrator_core.reconcile.sweep.findings import Finding, FindingKind, ReapResult
from orchestrator_core.system.processes.protocol import OwnershipSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.saga import RecoveryReport

    _Action = Callable[["_Reaper", list[Finding]], ReapResult]

_MAX_WORKERS = 24  #: Most of them wait: for processes to end, and for the disk.
_MAX_NAMED = 5  #: Subjects that the journal of an adopting saga names.


def reap(
    terminator: Terminator, findings: Iterable[Finding], *, timeout_s: float
) -> list[ReapResult]:
    """
    Reap those of *findings* that are reapable. A failure of one does not affect the others.

    *timeout_s* bounds the wait for another owner of the same agent. An interrupt lets the
    work that has begun come to its end, and begins no more.
    """
    reaper = _Reaper(terminator, timeout_s)
    groups: dict[tuple[_Action, str], list[Finding]] = {}
    for finding in findings:
        if finding.reapable:
            groups.setdefault(_action_and_target(finding), []).append(finding)
    try:
        # The module cannot be imported at the end of a program, which has no new threads.
        pool = concurrent.futures.ThreadPoolExecutor(_MAX_WORKERS, "reap")
    except RuntimeError:
        return [result for key, group in groups.items() for result in reaper.run(key[0], group)]
    with pool:
        results = [_submit(pool, reaper, key[0], group) for key, group in groups.items()]
        try:
            wait(results)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [result for several in results for result in several.result()]


def _submit(
    pool: ThreadPoolExecutor, reaper: _Reaper, action: _Action, findings: list[Finding]
) -> Future[list[ReapResult]]:
    """Reap in a thread; in this one, if the system has no more threads, or the program ends."""
    # In the context of the sweep, whose calls share a time-out.
    run = functools.partial(contextvars.copy_context().run, reaper.run, action, findings)
    try:
        return pool.submit(run)
    except RuntimeError:
        done: Future[list[ReapResult]] = Future()
        done.set_result(run())
        return done


@attrs.frozen
class _Reaper:
    terminator: Terminator
    timeout_s: float

    def run(self, action: _Action, findings: list[Finding]) -> list[ReapResult]:
        """Run *action* once for *findings* with one target; return a result for each."""
        try:
            result = action(self, findings)
        except OrchestratorError as error:
            result = _failure(findings[0], f"{error.code}: {error}")
        return [attrs.evolve(result, finding=finding) for finding in findings]

    # --- an open saga --------------------------------------------------------------------------

    def recover(self, findings: list[Finding]) -> ReapResult:
        """Let recovery unwind an open saga; wait once for another owner to release it."""
        finding, saga_id = findings[0], str(findings[0].saga_id)
        try:
            report = self.terminator.recover(only=saga_id, force=True)
            if saga_id in report.busy:
                with contextlib.suppress(SagaNotFound):
                    self.terminator.sagas.open(saga_id, timeout_s=self.timeout_s).release()
                report = self.terminator.recover(only=saga_id, force=True)
        except SagaNotFound:
            return self._already_done(finding)
        if saga_id in report.alive and finding.kind is FindingKind.LOST:
            return _result(finding, self._end_without_session(finding))
        if saga_id in report.damaged:
            kept = f"it was kept as {report.damaged[saga_id]}, and written anew"
            return ReapResult(finding=finding, success=True, message=kept)
        return _from_recovery(finding, saga_id, report) or self._already_done(finding)

    def _end_without_session(self, finding: Finding) -> EndReport:
        """End a live agent that lost its session, as its supervisor does on a hangup."""
        why = terminal_reason(Status.TERMINATED, "its tmux session was killed", by="hangup")
        return self.terminator.terminate(str(finding.agent_id), why, timeout_s=self.timeout_s)

    def _already_done(self, finding: Finding) -> ReapResult:
        end = None
        with contextlib.suppress(NotFound):
            end = self.terminator.report(str(finding.saga_id))
        message = "another process has ended it"
        return ReapResult(finding=finding, success=True, message=message, end=end)

    # --- a legacy agent ------------------------------------------------------------------------

    def end_legacy(self, findings: list[Finding]) -> ReapResult:
        """Adopt a legacy agent, which proves again what is the agent's, and unwind it."""
        finding, agent_id = findings[0], str(findings[0].agent_id)
        past = self.terminator.history_or_report(agent_id)
        if isinstance(past, EndReport):
            nothing = "nothing of it was left"
            return ReapResult(finding=finding, success=True, message=nothing, end=past)
        report = self.terminator.recover(only=agent_id, force=True)
        return _from_recovery(finding, agent_id, report) or _failure(
            finding, "it is alive, or another process is ending it"
        )

    # --- what no saga accounts for ---------------------------------------------------------------

    def adopt(self, findings: list[Finding]) -> ReapResult:
        """Adopt all that an agent's id leads to, and unwind it."""
        cgroups = (each.subject for each in findings if each.subject.startswith("/sys/"))
        task_ids = (each.task_id for each in findings if each.task_id is not None)
        with adopt(
            self.terminator,
            str(findings[0].agent_id),
            task_id=next(task_ids, None),
            what=", ".join(each.subject for each in findings[:_MAX_NAMED]),
            cgroup=next(cgroups, None),
        ) as saga:
            why = saga.history.why
            assert why is not None  # noqa: S101 - an adopted saga begins as one being unwound
            return _result(findings[0], EndReport.from_unwind(saga.unwind(why)))

    def restore_journal(self, findings: list[Finding]) -> ReapResult:
        """Write the journal of a living agent anew; nothing of the agent is ended."""
        finding, agent_id = findings[0], str(findings[0].agent_id)
        restored = restore_journal(self.terminator.context, self.terminator.sagas, agent_id)
        has_journal = restored or self.terminator.sagas.journals.contains(agent_id)
        message = "it has a journal again" if has_journal else "it has ended, or is ending"
        return ReapResult(finding=finding, success=has_journal, message=message)

    # --- an agent whose root was removed ---------------------------------------------------------

    def end_removed(self, findings: list[Finding]) -> ReapResult:
        """End the processes of an agent that nothing but its marks leads to."""
        context, cookie = self.terminator.context, str(findings[0].removed_cookie)
        selector = OwnershipSelector(
            cookie=cookie, cgroup=context.processes.cgroup_path(cookie), exit_file=None
        )
        ending = context.processes.terminate_all(selector, context.patience)
        if ending.survivors:
            names = ", ".join(f"{one.pid} ({one.name})" for one in ending.survivors)
            return _failure(findings[0], f"still alive after SIGKILL: {names}")
        message = f"{ending.signalled} processes ended, by {ending.method}"
        return ReapResult(finding=findings[0], success=True, message=message)

    # --- registries -------------------------------------------------------------------------------

    def repair(self, findings: list[Finding]) -> ReapResult:
        """Rewrite one registry from the journals."""
        is_global = _registry_of(findings[0]) == ""
        report = repair(
            self.terminator.context,
            task_id=None if is_global else findings[0].task_id,
            only_global=is_global,
            dry_run=False,
        )
        errors = [each.error for each in report.repairs if each.error]
        message = "; ".join(errors) or "the registry says what the journals say"
        return ReapResult(finding=findings[0], success=not errors, message=message)


def _action_and_target(finding: Finding) -> tuple[_Action, str]:  # noqa: PLR0911 - one for each way
    """Return how a finding is reaped, and on what: equal pairs are reaped in one go."""
    if finding.removed_cookie is not None:
        return _Reaper.end_removed, finding.removed_cookie
    if finding.is_old:
        return _Reaper.end_legacy, str(finding.agent_id)
    if finding.kind is FindingKind.MISMATCH and finding.subject == f"agent {finding.agent_id}":
        return _Reaper.restore_journal, str(finding.agent_id)
    if finding.kind is FindingKind.MISMATCH:
        return _Reaper.repair, _registry_of(finding)
    if finding.saga_id is not None:
        return _Reaper.recover, finding.saga_id  # Recovery rebuilds a damaged journal, too.
    if finding.kind is FindingKind.DAMAGED:
        return _Reaper.repair, _registry_of(finding)
    return _Reaper.adopt, str(finding.agent_id)


def _registry_of(finding: Finding) -> str:
    """Return the task of the registry that a finding is about, "" for the global one."""
    return "" if finding.subject.endswith("the global registry") else str(finding.task_id)


def _from_recovery(finding: Finding, saga_id: str, report: RecoveryReport) -> ReapResult | None:
    """Return what became of a saga in a recovery; None if recovery did nothing to it."""
    if saga_id in report.unwound:
        return _result(finding, EndReport.from_unwind(report.unwound[saga_id]))
    if saga_id in report.failed:
        return _failure(finding, report.failed[saga_id])
    if saga_id in report.busy:
        return _failure(finding, "it has to be ended from outside, or its owner is not done")
    return None


def _result(finding: Finding, end: EndReport) -> ReapResult:
    message = end.reason if end.success else "; ".join(end.errors) or "it is not over yet"
    return ReapResult(finding=finding, success=end.success, message=message, end=end)


def _failure(finding: Finding, message: str) -> ReapResult:
    return ReapResult(finding=finding, success=False, message=message)
