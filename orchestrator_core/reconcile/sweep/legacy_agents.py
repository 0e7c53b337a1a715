"""
The findings about legacy agents: agents that another system recorded, and no saga ever held.

The record of a legacy agent has no journal, open or closed, and none of the fields that
every record of this library has had from the first release on. A sweep does not treat the
agent's files and sessions as orphans; this module judges all of them.

:mod:`orchestrator_core.reconcile.legacy` proves whether a legacy agent is alive and what is
left of it, with one more call to tmux, and only if a registry has such records. The agent
is reaped as it is terminated: adopted, with all proofs collected again, and unwound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import is_legacy, legacy_agent, was_ended_by_us
from orchestrator_core.reconcile.legacy.proof import LegacyState, inspect_all
from orchestrator_core.reconcile.sweep.findings import Finding, FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.reconcile.legacy.proof import LegacyStatus
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot


@attrs.frozen(kw_only=True)
class LegacyRecord:
    """A legacy agent, as the registries show it."""

    agent_id: str
    task_id: str
    record: Mapping[str, Any] | None = None  #: In its task's registry.
    is_listed: bool = False  #: The global registry lists it.

    @property
    def is_active(self) -> bool:
        """Whether the registries show the agent as alive."""
        return self.record is None or is_active(self.record.get("status"))

    @property
    def subject(self) -> str:
        """How a finding names the agent."""
        return f"agent {self.agent_id} of the old system"


@attrs.define
class LegacyFindings:
    """The findings about legacy agents, the live ones, and what could not be found out."""

    findings: list[Finding] = attrs.field(factory=list)
    alive: list[str] = attrs.field(factory=list)
    unknown: list[str] = attrs.field(factory=list)


def legacy_records(snapshot: Snapshot) -> dict[str, LegacyRecord]:
    """Return the legacy agents in the registries of *snapshot*, live and ended, by id."""
    if snapshot.sagas is None:
        return {}  # Then it is unknown which agents have a saga.
    with_saga = snapshot.agents_with_saga | snapshot.agents_with_closed_saga
    found: dict[str, LegacyRecord] = {}
    for task_id, agents in snapshot.records.items():
        for agent_id, record in agents.items():
            # The cheap test comes first: most records are not of legacy agents.
            if is_legacy(record) and agent_id not in with_saga:
                found[agent_id] = LegacyRecord(
                    agent_id=agent_id,
                    task_id=task_id,
                    record=record,
                    is_listed=agent_id in snapshot.global_entries,
                )
    for agent_id, entry in snapshot.global_entries.items():
        has_record = agent_id in found or agent_id in snapshot.records.get(entry.task_id, {})
        if is_legacy(entry.record) and agent_id not in with_saga and not has_record:
            found[agent_id] = LegacyRecord(agent_id=agent_id, task_id=entry.task_id, is_listed=True)
    return found


def inspect_legacy(
    context: RootContext, snapshot: Snapshot, records: Mapping[str, LegacyRecord]
) -> LegacyFindings:
    """Inspect the machine once for all legacy agents; return what is wrong with them."""
    result = LegacyFindings()
    agents: dict[str, LegacyAgent] = {}
    for record in records.values():
        agent = _agent(context, snapshot, record)
        if record.record is None:
            result.findings.append(_listed_only(record))
        elif was_ended_by_us(record.record):
            continue
        elif agent is not None:
            agents[agent.id] = agent
        elif record.is_active:
            result.unknown.append(f"{record.subject}: its id or its session's name cannot be used")
    for agent_id, status in inspect_all(context, list(agents.values())).items():
        record = records[agent_id]
        if status.life is LegacyState.UNKNOWN:
            result.unknown.append(f"{record.subject}: {status.why}")
        elif status.life is LegacyState.ALIVE and record.is_active:
            result.alive.append(agent_id)
        else:
            result.findings += _findings(record, agents[agent_id], status)
    return result


def _agent(context: RootContext, snapshot: Snapshot, record: LegacyRecord) -> LegacyAgent | None:
    registry = (snapshot.tasks or {}).get(record.task_id)
    if record.record is None or registry is None or registry.document is None:
        return None
    return legacy_agent(context, registry.document, record.task_id, record.record)


def _listed_only(record: LegacyRecord) -> Finding:
    return Finding(
        kind=FindingKind.ORPHAN_RECORD,
        is_old=True,
        agent_id=record.agent_id,
        task_id=record.task_id,
        subject=f"entry of {record.agent_id} in the global registry",
        what="the old system lists it as alive, and its task has no record of it",
        proofs=("the global registry lists it",),
        action="",
    )


def _findings(record: LegacyRecord, agent: LegacyAgent, status: LegacyStatus) -> Iterator[Finding]:
    left = []
    if status.life is LegacyState.ALIVE:
        left.append("it is still alive")
    if agent.files.present:
        left.append(f"{len(agent.files.present)} of its files are where they were")
    if record.is_listed:
        left.append("the global registry lists it as alive")
    if record.is_active:
        kind, rest = FindingKind.LOST, ", and no process of it is alive"
    else:
        kind, rest = FindingKind.ENDED, f"; {', '.join(left)}"
    if record.is_active or left:
        yield Finding(
            kind=kind,
            is_old=True,
            agent_id=record.agent_id,
            task_id=record.task_id,
            subject=record.subject,
            what=f"the old system recorded it as {agent.status!r}{rest}",
            proofs=status.proofs,
        )
