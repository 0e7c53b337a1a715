"""
Mismatches: a registry contradicts a journal about whether an agent is alive.

The journal counts: each entry is written before the fact, and no user edits a journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.sweep.findings import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.reconcile.sweep.findings import Finding
    from orchestrator_core.reconcile.sweep.saga_snapshot import SagaState
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot


def detect_mismatches(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield where the registries in *snapshot* contradict its journals."""
    if snapshot.processes is not None:  # Otherwise no agent is known to be alive.
        for state in (snapshot.sagas or {}).values():
            if state.is_alive and state.receipt is not None and state.agent_id == state.saga_id:
                yield from _alive_but_not_registered(state, snapshot)
    for entry in snapshot.live_entries:
        agent_id = entry.agent_id
        if agent_id in snapshot.agents_with_closed_saga:
            yield entry.finding(
                FindingKind.MISMATCH,
                "it shows the agent as alive, and the agent's saga is closed",
                f"the closed journal sagas/closed/{agent_id}.jsonl records its end",
                "the registry is one of this root, and names that agent",
            )


def _alive_but_not_registered(state: SagaState, snapshot: Snapshot) -> Iterator[Finding]:
    agent_id, task_id = state.agent_id, state.task_id or ""
    if snapshot.document(task_id) is not None:
        record = snapshot.records[task_id].get(agent_id)
        yield from _unless_active(record, state, f"record of {agent_id} in {task_id}")
    registry = snapshot.global_registry
    if registry.document is not None or registry.missing:
        entry = snapshot.global_entries.get(agent_id)
        subject = f"entry of {agent_id} in the global registry"
        yield from _unless_active(None if entry is None else entry.record, state, subject)


def _unless_active(
    record: Mapping[str, object] | None, state: SagaState, subject: str
) -> Iterator[Finding]:
    if record is not None and is_active(record.get("status")):
        return
    wrong = "it is missing" if record is None else f"its status is {record.get('status')!r}"
    yield state.finding(
        FindingKind.MISMATCH,
        f"{wrong}, and the agent is alive",
        f"the state of the journal sagas/{state.saga_id}.jsonl is committed",
        "its supervisor is alive: the one that its journal names",
        subject=subject,
    )
