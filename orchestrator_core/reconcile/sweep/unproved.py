"""
Files of agents that no registry lists, and that nothing proves to be this library's.

A name, and a content that names the agent, are no proof of whose agent it is: an agent of the
legacy system has files of the same names. So before such files are reaped, the machine is
asked for signs of the agent's life (:mod:`~orchestrator_core.reconcile.legacy.unlisted`). An
agent that may be alive is no finding but unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.reconcile.legacy.unlisted import foreign_note, signs_of_life
from orchestrator_core.reconcile.sweep.findings import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.findings import Finding
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot


def without_unproved(
    context: RootContext, snapshot: Snapshot, findings: Iterable[Finding]
) -> tuple[list[Finding], list[str]]:
    """Return *findings* without those about agents that may be alive, and what is unknown."""
    own = _own_agents(snapshot)
    candidates = {
        each.agent_id: each.task_id
        for each in findings
        if each.kind is FindingKind.ORPHAN_FILE and each.agent_id and each.agent_id not in own
    }
    signs = signs_of_life(context, candidates)
    unknown = [f"agent {name}, which no registry lists: {sign}" for name, sign in signs.items()]
    note = foreign_note(context.layout)
    left = [each for each in findings if each.agent_id not in signs]
    if note:
        unknown.insert(0, f"{context.layout.foreign_database}: {note}")
    return left, unknown


def _own_agents(snapshot: Snapshot) -> set[str]:
    """Return the agents that a mark, a journal or a record shows to be this library's."""
    cookies = [each.owner for each in snapshot.sessions or ()]
    cookies += [each.cookie for each in snapshot.processes or ()]
    marked = {name for name in map(snapshot.agent_for_cookie, cookies) if name is not None}
    recorded = {name for agents in snapshot.records.values() for name in agents}
    cgroups = {file.agent_id for file in snapshot.files if file.what == "cgroup"}
    closed = snapshot.agents_with_closed_saga
    return marked | recorded | cgroups | closed | snapshot.agents_with_saga
