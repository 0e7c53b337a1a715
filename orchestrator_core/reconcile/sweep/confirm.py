"""
Confirm findings by a second snapshot.

A snapshot takes time, and the world goes on meanwhile: a session that was seen first may
belong to an agent whose saga closed before its journal was read. A second snapshot, of only
those sources that the findings need, shows what is really there: an agent's id is never used
twice, and an open journal gives nothing back before it records that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep.findings import FINDINGS, Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.reconcile.sweep.findings import Finding


def recheck_sources(findings: Iterable[Finding]) -> frozenset[Source]:
    """Return the sources of the second snapshot; none if no finding needs one."""
    needed = frozenset[Source]().union(*(FINDINGS[each.kind].recheck for each in findings))
    # Only the registries show which agents are legacy agents.
    return needed | {Source.REGISTRIES} if needed else needed


def confirm(findings: Iterable[Finding], again: Iterable[Finding]) -> list[Finding]:
    """Return those of *findings* that need no second snapshot, or are in *again*, too."""
    keys = {finding.key for finding in again}
    return [each for each in findings if not FINDINGS[each.kind].recheck or each.key in keys]
