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

from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import is_legacy, legacy_agent, was_ended_by_us
from orchestrator_core.reconcile.legacy.proof import LegacyState, inspect_all
from orchestrator_core.reconcile.sweep.findings import FindingKind
from orchestrator_core.reconcile.sweep.snapshot import RegistryEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.reconcile.legacy.proof import LegacyStatus
    from orchestrator_core.reconcile.sweep.findings import Finding
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot


@attrs.define
class LegacyFindings:
    """The findings about legacy agents, the live ones, and what could not be found out."""

    findings: list[Finding] = attrs.field(factory=list)
    alive: list[str] = attrs.field(factory=list)
    unknown: list[str] = attrs.field(factory=list)


def legacy_records(snapshot: Snapshot) -> dict[str, RegistryEntry]:
    """Return the legacy agents in the registries of *snapshot*, live and ended, by id."""
    if snapshot.sagas is None:
        return {}  # Then it is unknown which agents have a saga.
    with_saga = snapshot.agents_with_saga | snapshot.agents_with_closed_saga
    found: dict[str, RegistryEntry] = {}
    for task_id, agents in snapshot.records.items():
        for agent_id, record in agents.items():
            # The cheap test comes first: most records are not of legacy agents.
            if is_legacy(record) and agent_id not in with_saga:
                subject = f"agent {agent_id} of the old system"
                found[agent_id] = RegistryEntry(agent_id, task_id, subject, record)
    # An entry counts only for an agent whose task has no record of it.
    for agent_id, entry in snapshot.global_entries.items():
        has_record = agent_id in found or agent_id in snapshot.records.get(entry.task_id, {})
        if is_legacy(entry.record) and agent_id not in with_saga and not has_record:
            found[agent_id] = entry
    return found


def inspect_legacy(
    context: RootContext, snapshot: Snapshot, records: Mapping[str, RegistryEntry]
) -> LegacyFindings:
    """Inspect the machine once for all legacy agents; return what is wrong with them."""
    result = LegacyFindings()
    agents: dict[str, LegacyAgent] = {}
    for entry in records.values():
        document = snapshot.document(entry.task_id) or {}
        if entry is snapshot.global_entries.get(entry.agent_id):
            result.findings.append(_listed_only(entry))
        elif was_ended_by_us(entry.record):
            continue
        elif agent := legacy_agent(context, document, entry.task_id, entry.record):
            agents[agent.id] = agent
        elif is_active(entry.record.get("status")):
            result.unknown.append(f"{entry.subject}: its id or its session's name cannot be used")
    statuses = inspect_all(context, list(agents.values()))
    named = _named(context, agents, statuses)
    for agent_id, status in statuses.items():
        entry, agent = records[agent_id], agents[agent_id]
        if status.life is LegacyState.UNKNOWN or agent_id in named:
            result.unknown.append(f"{entry.subject}: {named.get(agent_id) or status.why}")
        elif status.life is LegacyState.ALIVE and agent.is_active:
            result.alive.append(agent_id)
        else:
            is_listed = agent_id in snapshot.global_entries
            result.findings += _findings(entry, agent, status, is_listed=is_listed)
    return result


def _named(
    context: RootContext, agents: Mapping[str, LegacyAgent], statuses: Mapping[str, LegacyStatus]
) -> dict[str, str]:
    """Return why those agents may be alive that nothing but a process's own words shows."""
    gone = {
        agent_id: agent
        for agent_id, agent in agents.items()
        if statuses[agent_id].life is LegacyState.GONE and (agent.is_active or agent.files.present)
    }
    try:
        found = context.processes.find_mentions(gone.keys())
    except CouldNotAsk as error:
        return dict.fromkeys(gone, str(error))
    return {
        each.word: f"process {each.process.pid} ({each.name}) names it, and nothing else shows "
        "that it is alive"
        for each in found
    }


def _listed_only(entry: RegistryEntry) -> Finding:
    return entry.finding(
        FindingKind.ORPHAN_RECORD,
        "the old system lists it as alive, and its task has no record of it",
        "the global registry lists it",
        reapable=False,
        is_old=True,
    )


def _findings(
    entry: RegistryEntry, agent: LegacyAgent, status: LegacyStatus, *, is_listed: bool
) -> Iterator[Finding]:
    left = []
    if status.life is LegacyState.ALIVE:
        left.append("it is still alive")
    if agent.files.present:
        left.append(f"{len(agent.files.present)} of its files are where they were")
    if is_listed:
        left.append("the global registry lists it as alive")
    if agent.is_active:
        kind, rest = FindingKind.LOST, ", and no process of it is alive"
    else:
        kind, rest = FindingKind.ENDED, f"; {', '.join(left)}"
    if agent.is_active or left:
        what = f"the old system recorded it as {str(agent.status)!r}{rest}"
        yield entry.finding(kind, what, *status.proofs, is_old=True)
