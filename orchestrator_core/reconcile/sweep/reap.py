"""
Reaping: what was found is ended by the saga that holds it.

There is no way to end anything here. A finding about an open saga goes to
recovery, which unwinds it; what no saga accounts for is adopted by one, which is
unwound; a registry that is wrong is repaired from the journals. Each of them looks
for itself, under its own locks, whether there is anything to do: so two sweeps, or
a sweep and whoever else ends the same agent, come to one end.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import NotFound, OrchestratorError, SagaNotFound
from orchestrator_core.model.outcome import EndReport, ended
from orchestrator_core.model.status import Status
from orchestrator_core.reconcile.repair import repair
from orchestrator_core.reconcile.sweep import legacy_agents as old_system
from orchestrator_core.reconcile.sweep.adopt import adopt
from orchestrator_core.reconcile.sweep.findings import Finding, FindingKind, ReapResult
from orchestrator_core.registry.batcher import Crowd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.saga import RecoveryReport

_STRAYS = frozenset(
    {
        FindingKind.ORPHAN_SESSION,
        FindingKind.ORPHAN_PROCESS,
        FindingKind.ORPHAN_FILE,
        FindingKind.ORPHAN_RECORD,
    }
)
_AT_WORK = 2  #: At a time. More would only take turns at Python, which costs time itself.
_AT_ONCE = 24  #: Ends at once.
_LOOK_S = 0.05  #: How often it is looked whether they work or wait.
_TOLD = 5  #: So many things are named in the journal of the saga that adopts them.


def reap(
    terminator: Terminator, findings: Iterable[Finding], *, timeout_s: float
) -> list[ReapResult]:
    """
    Reap those of *findings* that may be; one that cannot be reaped strands no other.

    *timeout_s* bounds the wait for somebody else who is ending the same agent.
    """
    return _Reaping(terminator, timeout_s).of([one for one in findings if one.reapable])


@attrs.frozen
class _Reaping:
    terminator: Terminator
    timeout_s: float

    def of(self, findings: list[Finding]) -> list[ReapResult]:
        """
        Reap many at once: few as long as they work, and more when they are seen to wait.

        After an interrupt, those that have begun come to their end, and no other begins.
        """
        crowd, stopped = Crowd(_AT_WORK), threading.Event()

        def reap(job: Callable[[], list[ReapResult]]) -> list[ReapResult]:
            with crowd.joined():
                return [] if stopped.is_set() else job()

        with ThreadPoolExecutor(_AT_ONCE, "reaping") as pool:
            reaped = [pool.submit(reap, job) for job in self._jobs(findings)]
            under_way = set(reaped)
            try:
                while under_way:
                    moves, began, worked = crowd.moves, time.monotonic(), time.process_time()
                    under_way = wait(under_way, _LOOK_S).not_done
                    if moves == crowd.moves:  # They wait for processes to leave.
                        crowd.widen(_AT_ONCE)
                    elif time.process_time() - worked < (time.monotonic() - began) / 2:
                        crowd.widen(min(2 * crowd.places, _AT_ONCE))
            except BaseException:
                stopped.set()
                crowd.widen(_AT_ONCE)
                raise
            return [one for several in reaped for one in several.result()]

    def _jobs(self, findings: list[Finding]) -> Iterator[Callable[[], list[ReapResult]]]:
        """Yield what is to be done, so that no two are about the same agent."""
        strays: dict[str, list[Finding]] = {}
        of_sagas: dict[str, list[Finding]] = {}
        rest: list[Finding] = []
        for finding in findings:
            if finding.is_old:
                of_sagas.setdefault(f"old {finding.agent_id}", []).append(finding)
            elif finding.kind is FindingKind.MISMATCH or finding.saga_id is None:
                if finding.kind in _STRAYS and finding.agent_id is not None:
                    strays.setdefault(finding.agent_id, []).append(finding)
                else:
                    rest.append(finding)
            else:
                of_sagas.setdefault(finding.saga_id, []).append(finding)
        # Those of one task side by side: their registry is one.
        by_task = sorted(of_sagas.values(), key=lambda several: several[0].task_id or "")
        for several in (*by_task, *filter(None, [rest])):
            yield functools.partial(self._one_by_one, several)
        for family in strays.values():
            yield functools.partial(self._family, family)

    def _one_by_one(self, findings: list[Finding]) -> list[ReapResult]:
        return [self._guarded(finding, self._reaped) for finding in findings]

    def _family(self, family: list[Finding]) -> list[ReapResult]:
        first = self._guarded(family[0], lambda _: self._adopted(family))
        return [attrs.evolve(first, finding=finding) for finding in family]

    def _reaped(self, finding: Finding) -> ReapResult:
        if finding.is_old:
            return old_system.reap(self.terminator, finding)
        if finding.kind is FindingKind.MISMATCH or finding.saga_id is None:
            return self._repaired(finding)
        return self._recovered(finding)

    def _guarded(self, finding: Finding, reap: Callable[[Finding], ReapResult]) -> ReapResult:
        try:
            return reap(finding)
        except OrchestratorError as error:
            return ReapResult(finding=finding, success=False, message=f"{error.code}: {error}")

    # --- an open saga --------------------------------------------------------------------------

    def _recovered(self, finding: Finding) -> ReapResult:
        saga_id = str(finding.saga_id)
        for is_last in (False, True):
            try:
                report = self.terminator.recover(only=saga_id, force=True)
            except SagaNotFound:
                return self._was_ended(finding)
            if saga_id not in report.busy or is_last:
                break
            with (
                contextlib.suppress(SagaNotFound),
                self.terminator.sagas.open(saga_id, timeout_s=self.timeout_s),
            ):
                pass  # Whoever was at it has let go.
        if saga_id in report.alive and finding.kind is FindingKind.LOST:
            return self._told(finding, self._hung_up(finding))
        return self._of_recovery(finding, report)

    def _hung_up(self, finding: Finding) -> EndReport:
        """End an agent that lives without its session, as its supervisor would have."""
        why = ended(Status.TERMINATED, "its tmux session was killed", by="hangup")
        return self.terminator.terminate(str(finding.agent_id), why, timeout_s=self.timeout_s)

    def _of_recovery(self, finding: Finding, report: RecoveryReport) -> ReapResult:
        saga_id = str(finding.saga_id)
        if saga_id in report.unwound:
            return self._told(finding, EndReport.of(report.unwound[saga_id]))
        if saga_id in report.failed:
            return ReapResult(finding=finding, success=False, message=report.failed[saga_id])
        if saga_id in report.busy:
            return ReapResult(finding=finding, success=False, message="somebody else has to end it")
        if saga_id in report.damaged:
            kept = f"it was kept as {report.damaged[saga_id]}, and written anew"
            return ReapResult(finding=finding, success=True, message=kept)
        return self._was_ended(finding)

    def _was_ended(self, finding: Finding) -> ReapResult:
        end = None
        with contextlib.suppress(NotFound):
            end = self.terminator.report(str(finding.saga_id))
        return ReapResult(
            finding=finding, success=True, message="somebody else has seen to it", end=end
        )

    def _told(self, finding: Finding, end: EndReport) -> ReapResult:
        message = end.reason if end.success else "; ".join(end.errors) or "it is not over yet"
        return ReapResult(finding=finding, success=end.success, message=message, end=end)

    # --- what no saga accounts for ---------------------------------------------------------------

    def _adopted(self, family: list[Finding]) -> ReapResult:
        first = family[0]
        cgroups = [one.subject for one in family if one.subject.startswith("/sys/")]
        task_ids = [one.task_id for one in family if one.task_id is not None]
        with adopt(
            self.terminator,
            str(first.agent_id),
            task_id=next(iter(task_ids), None),
            what=", ".join(one.subject for one in family[:_TOLD]),
            cgroup=next(iter(cgroups), None),
        ) as saga:
            why = saga.history.why
            assert why is not None  # noqa: S101 - it was adopted to be unwound
            return self._told(first, EndReport.of(saga.unwind(why)))

    # --- registries -------------------------------------------------------------------------------

    def _repaired(self, finding: Finding) -> ReapResult:
        is_global = finding.subject.endswith("the global registry")
        report = repair(
            self.terminator.context,
            self.terminator.sagas,
            task_id=None if is_global else finding.task_id,
            only_global=is_global,
            dry_run=False,
        )
        errors = [one.error for one in report.repairs if one.error]
        message = "; ".join(errors) or "the registry says what the journals say"
        return ReapResult(finding=finding, success=not errors, message=message)
