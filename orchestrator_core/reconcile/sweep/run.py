"""One sweep, from the first look to the report."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep import legacy_agents as old_system
from orchestrator_core.reconcile.sweep.confirm import settled
from orchestrator_core.reconcile.sweep.detect import compare
from orchestrator_core.reconcile.sweep.findings import SweepReport
from orchestrator_core.reconcile.sweep.reap import reap
from orchestrator_core.reconcile.sweep.snapshot import look
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.reconcile.sweep.candidates import Candidate, Source


def sweep(
    terminator: Terminator, *, reaping: bool, silent_after_s: float, timeout_s: float
) -> SweepReport:
    """Find what is left, and reap it if that is wanted; see :meth:`Orchestrator.sweep`."""
    begun = time.monotonic()
    compared = functools.partial(compare, silent_after_s=silent_after_s, now=time.time())
    seen = look(terminator.context, terminator.sagas)
    first = compared(seen)
    unknown = list(seen.unknown)

    def again(sources: frozenset[Source]) -> tuple[Candidate, ...]:
        more = look(terminator.context, terminator.sagas, sources)
        unknown.extend(more.unknown)
        return compared(more).candidates

    old = old_system.judge(terminator.context, seen, first.old)
    unknown.extend(old.unknown)
    findings = [*settled(first.candidates, again), *old.findings]
    reaped = reap(terminator, findings, timeout_s=timeout_s) if reaping else []
    return SweepReport(
        findings=tuple(findings),
        unknown=tuple(dict.fromkeys(unknown)),
        reaped=tuple(reaped),
        dry_run=not reaping,
        duration_ms=ms_since(begun),
        alive=(*first.alive, *old.alive),
        busy=first.busy,
    )
