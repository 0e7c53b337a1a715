"""A would-be finding, and what has to be asked once more before it is one."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, FindingKind

if TYPE_CHECKING:
    from orchestrator_core.reconcile.sweep.saga_snapshot import Seen


class Source(enum.Enum):
    """What can be asked, besides the journals."""

    SESSIONS = "sessions"
    PROCESSES = "processes"
    REGISTRIES = "registries"
    FILES = "files"


EVERYTHING = frozenset(Source)


@attrs.frozen
class Candidate:
    """What one look alone would have for a finding."""

    finding: Finding
    doubts: frozenset[Source] = frozenset()  #: A second look at these must show it, too.


def saga_candidate(
    kind: FindingKind,
    seen: Seen,
    *,
    what: str,
    proofs: tuple[str, ...],
    subject: str = "",
    doubts: frozenset[Source] = frozenset(),
) -> Candidate:
    """Return a candidate that is about an agent with an open saga."""
    finding = Finding(
        kind=kind,
        agent_id=seen.agent_id,
        task_id=seen.task_id,
        saga_id=seen.saga_id,
        subject=subject or f"agent {seen.agent_id}",
        what=what,
        proofs=proofs,
        action=FINDINGS[kind].reap_action,
    )
    return Candidate(finding, doubts)
