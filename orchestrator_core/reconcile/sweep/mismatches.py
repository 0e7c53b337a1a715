"""
Disagreements: a registry tells another story of an agent than its journal does.

The journal counts: it is written before anything happens, and nobody edits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.reconcile.sweep.candidates import Candidate, Source, saga_candidate
from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, FindingKind
from orchestrator_core.reconcile.sweep.registry_entries import shows_living

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.reconcile.sweep.registry_entries import Entered
    from orchestrator_core.reconcile.sweep.saga_snapshot import Seen
    from orchestrator_core.reconcile.sweep.snapshot import Look

_DOUBTS = frozenset({Source.REGISTRIES, Source.PROCESSES})


def of(look: Look) -> Iterator[Candidate]:
    """Return where the registries in *look* contradict its journals."""
    if look.processes is not None:  # Otherwise it is not known who lives.
        entries = {entered.agent_id: entered for entered in look.listed}
        for seen in (look.sagas or {}).values():
            if seen.lives and seen.receipt is not None and seen.agent_id == seen.saga_id:
                yield from _unrecorded(seen, look)
                yield from _unlisted(seen, look, entries)
    accounted = look.accounted
    for entered in look.recorded:
        if entered.agent_id in look.closed and entered.agent_id not in accounted:
            yield _ended(entered, f"record of {entered.agent_id} in {entered.task_id}")
    for entered in look.listed:
        if entered.agent_id in look.closed and entered.agent_id not in accounted:
            yield _ended(entered, f"entry of {entered.agent_id} in the global registry")


def _unrecorded(seen: Seen, look: Look) -> Iterator[Candidate]:
    registry = (look.tasks or {}).get(seen.task_id or "")
    if registry is None or registry.document is None:
        return
    record = look.records.get(seen.task_id or "", {}).get(seen.agent_id)
    if record is None:
        yield _living(seen, f"record of {seen.agent_id} in {seen.task_id}", "it is missing")
    elif not shows_living(record):
        told = f"it says {record.get('status')!r}"
        yield _living(seen, f"record of {seen.agent_id} in {seen.task_id}", told)


def _unlisted(seen: Seen, look: Look, entries: dict[str, Entered]) -> Iterator[Candidate]:
    if look.living is None or (look.living.document is None and not look.living.missing):
        return
    subject = f"entry of {seen.agent_id} in the global registry"
    entered = entries.get(seen.agent_id)
    if entered is None:
        yield _living(seen, subject, "it is missing")
    elif not shows_living(entered.record):
        yield _living(seen, subject, f"it says {entered.record.get('status')!r}")


def _living(seen: Seen, subject: str, told: str) -> Candidate:
    return saga_candidate(
        FindingKind.MISMATCH,
        seen,
        subject=subject,
        what=f"{told}, and the agent lives",
        proofs=(
            f"the journal sagas/{seen.saga_id}.jsonl says that it is committed",
            "its supervisor is alive: the one that its journal names",
        ),
        doubts=_DOUBTS,
    )


def _ended(entered: Entered, subject: str) -> Candidate:
    finding = Finding(
        kind=FindingKind.MISMATCH,
        agent_id=entered.agent_id,
        task_id=entered.task_id,
        subject=subject,
        what="it shows the agent as living, and its saga is closed",
        proofs=(
            f"the closed journal sagas/closed/{entered.agent_id}.jsonl tells of its end",
            "the registry is one of this root, and names that agent",
        ),
        action=FINDINGS[FindingKind.MISMATCH].reap_action,
    )
    return Candidate(finding, _DOUBTS)
