"""
One sweep, from the first snapshot to the report.

A snapshot takes time, and the world goes on meanwhile: a session that was seen first may
belong to an agent whose saga closed before its journal was read. So a finding that depends
on the order of reading counts only if a second snapshot shows it, too. The second snapshot
shows what is really there, since an agent's id is never used twice, and an open journal gives
nothing back before it records that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep.detect import detect
from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, SweepReport
from orchestrator_core.reconcile.sweep.legacy_agents import inspect_legacy, legacy_records
from orchestrator_core.reconcile.sweep.reap import reap
from orchestrator_core.reconcile.sweep.snapshot import take_snapshot
from orchestrator_core.reconcile.sweep.unproved import without_unproved
from orchestrator_core.reconcile.sweep.unreachable import request_sockets
from orchestrator_core.system.clock import ms_since
from orchestrator_core.system.one_timeout import shared_timeout

if TYPE_CHECKING:
    from orchestrator_core.deployment.terminator import Terminator


def sweep(
    terminator: Terminator, *, reaping: bool, silent_after_s: float, timeout_s: float
) -> SweepReport:
    """Find what is left, and reap it with *reaping*; see :meth:`Orchestrator.sweep`."""
    with shared_timeout():
        return _sweep(
            terminator, reaping=reaping, silent_after_s=silent_after_s, timeout_s=timeout_s
        )


def _sweep(
    terminator: Terminator, *, reaping: bool, silent_after_s: float, timeout_s: float
) -> SweepReport:
    begun, now = time.monotonic(), time.time()
    context, sagas = terminator.context, terminator.sagas
    snapshot = take_snapshot(context, sagas)
    records = legacy_records(snapshot)
    findings = detect(snapshot, records, silent_after_s=silent_after_s, now=now)
    unknown = snapshot.unknown
    if any(FINDINGS[finding.kind].recheck for finding in findings):
        second = take_snapshot(context, sagas)
        again = detect(second, legacy_records(second), silent_after_s=silent_after_s, now=now)
        findings = _confirm(findings, again)
        unknown += second.unknown
    findings, unproved = without_unproved(context, snapshot, findings)
    legacy = inspect_legacy(context, snapshot, records)
    findings += legacy.findings
    states = (snapshot.sagas or {}).values()
    if reaping:
        request_sockets(context, states)
    reaped = reap(terminator, findings, timeout_s=timeout_s) if reaping else []
    return SweepReport(
        findings=tuple(findings),
        unknown=tuple(dict.fromkeys((*unknown, *unproved, *legacy.unknown))),
        reaped=tuple(reaped),
        dry_run=not reaping,
        duration_ms=ms_since(begun),
        alive=(*(state.agent_id for state in states if state.is_alive), *legacy.alive),
        busy=tuple(state.agent_id for state in states if state.has_owner),
    )


def _confirm(findings: list[Finding], again: list[Finding]) -> list[Finding]:
    """Return those of *findings* that need no second snapshot, or that it shows, too."""
    keys = {finding.key for finding in again}
    return [each for each in findings if not FINDINGS[each.kind].recheck or each.key in keys]
