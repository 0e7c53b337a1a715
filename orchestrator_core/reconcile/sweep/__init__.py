"""
Sweeping: find what no saga accounts for, and what a saga accounts for no more.

============ ====================================================================
look         one look at the world: sessions, processes, registries, files, journals
compare      what the look says against what the journals say; pure
findings     the values: a finding, with its proofs; the table of all kinds
settling     a would-be finding is looked at once more before it is told
reaping      a finding is ended by the saga that holds it, or by one that adopts it
old_system   the seam for agents that another system has recorded
============ ====================================================================

A sweep only finds. What it ends, it ends as everything else is ended: some saga
is unwound.
"""

from __future__ import annotations

from orchestrator_core.reconcile.sweep.findings import (
    FINDINGS,
    Finding,
    FindingInfo,
    FindingKind,
    ReapResult,
    SweepReport,
)

__all__ = ["FINDINGS", "Finding", "FindingInfo", "FindingKind", "ReapResult", "SweepReport"]
