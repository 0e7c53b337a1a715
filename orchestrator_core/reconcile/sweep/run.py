"""One sweep, from the first snapshot to the report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep.confirm import confirm, recheck_sources
from orchestrator_core.reconcile.sweep.detect import detect
from orchestrator_core.reconcile.sweep.findings import SweepReport
from orchestrator_core.reconcile.sweep.legacy_agents import inspect_legacy, legacy_records
from orchestrator_core.reconcile.sweep.reap import reap
from orchestrator_core.reconcile.sweep.snapshot import take_snapshot
from orchestrator_core.system.clock import ms_since

if TYPE_CHECKING:
    from orchestrator_core.deployment.terminator import Terminator


def sweep(
    terminator: Terminator, *, reaping: bool, silent_after_s: float, timeout_s: float
) -> SweepReport:
    """Find what is left, and reap it with *reaping*; see :meth:`Orchestrator.sweep`."""
    begun, now = time.monotonic(), time.time()
    context, sagas = terminator.context, terminator.sagas
    snapshot = take_snapshot(context, sagas)
    records = legacy_records(snapshot)
    findings = detect(snapshot, records, silent_after_s=silent_after_s, now=now)
    unknown = snapshot.unknown
    if sources := recheck_sources(findings):
        second = take_snapshot(context, sagas, sources)
        again = detect(second, legacy_records(second), silent_after_s=silent_after_s, now=now)
        findings = confirm(findings, again)
        unknown += second.unknown
    legacy = inspect_legacy(context, snapshot, records)
    findings += legacy.findings
    reaped = reap(terminator, findings, timeout_s=timeout_s) if reaping else []
    states = (snapshot.sagas or {}).values()
    return SweepReport(
        findings=tuple(findings),
        unknown=tuple(dict.fromkeys((*unknown, *legacy.unknown))),
        reaped=tuple(reaped),
        dry_run=not reaping,
        duration_ms=ms_since(begun),
        alive=(*(state.agent_id for state in states if state.is_alive), *legacy.alive),
        busy=tuple(state.agent_id for state in states if state.has_owner),
    )
