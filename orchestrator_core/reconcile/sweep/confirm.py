"""
Settling: what one look has put in doubt is looked at once more before it is told.

A look takes time, and the world goes on meanwhile: a session seen first may be that
of an agent whose saga has closed before its journal was looked for. It is gone
then. So a second look, at those sources alone that a candidate needs, finds again
what is really there, and nothing else: an id is never used twice, and what an
open journal holds is not given back before that journal says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep.candidates import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator_core.reconcile.sweep.candidates import Candidate
    from orchestrator_core.reconcile.sweep.findings import Finding


def settled(
    candidates: Iterable[Candidate],
    again: Callable[[frozenset[Source]], Iterable[Candidate]],
) -> list[Finding]:
    """Return the findings among *candidates*; *again* returns those of another look at sources."""
    candidates = list(candidates)
    doubts = frozenset[Source]().union(*(candidate.doubts for candidate in candidates))
    if not doubts:
        return [candidate.finding for candidate in candidates]
    # Who is of the old system, only the registries can tell.
    still = {each.finding.key for each in again(doubts | {Source.REGISTRIES})}
    return [
        candidate.finding
        for candidate in candidates
        if not candidate.doubts or candidate.finding.key in still
    ]
