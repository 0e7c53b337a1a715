"""
Agents that another system has recorded, and no saga ever held.

Such a record has no journal, open or closed, and none of the fields that every
record of ours has had from the first release on. A sweep neither calls it a
stray nor touches the files and sessions of its id: all of it is handed over here.

Whether such an agent lives, and what of it is left, :mod:`orchestrator_core.reconcile.legacy`
proves: with one more call to tmux, and only where there are such records. It is
reaped as it is ended: adopted, which proves it again, and unwound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.reconcile.legacy.agent import LegacyAgent, legacy_agent, was_ended_by_us
from orchestrator_core.reconcile.legacy.proof import LegacyState, LegacyStatus, inspect_all
from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, FindingKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.sweep.snapshot import Look


@attrs.frozen(kw_only=True)
class LegacyRecord:
    """An agent of the old system, as its records show it."""

    agent_id: str
    task_id: str
    record: Mapping[str, Any] | None = None  #: In its task's registry.
    entry: Mapping[str, Any] | None = None  #: In the global registry.
    lives: bool = True  #: Whether they show it as living.


@attrs.frozen(kw_only=True)
class Judged:
    """What there is to tell of the old system's agents."""

    findings: tuple[Finding, ...] = ()
    alive: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def judge(context: RootContext, look: Look, records: Sequence[LegacyRecord]) -> Judged:
    """Look at the old system's agents, all at once, and say how each of them stands."""
    asked = [one for one in records if one.record is None or not was_ended_by_us(one.record)]
    agents = {one.agent_id: _agent(context, look, one) for one in asked}
    known = inspect_all(context, [agent for agent in agents.values() if agent is not None])
    told = [_told(one, agents[one.agent_id], known.get(one.agent_id)) for one in asked]
    return Judged(
        findings=tuple(one for one in told if isinstance(one, Finding)),
        alive=tuple(
            one.agent_id
            for one in asked
            if one.lives and one.agent_id in known and known[one.agent_id].life is LegacyState.ALIVE
        ),
        unknown=tuple(one for one in told if isinstance(one, str)),
    )


def _agent(context: RootContext, look: Look, one: LegacyRecord) -> LegacyAgent | None:
    registry = (look.tasks or {}).get(one.task_id)
    if one.record is None or registry is None or registry.document is None:
        return None
    return legacy_agent(context, registry.document, one.task_id, one.record)


def _told(
    one: LegacyRecord, agent: LegacyAgent | None, standing: LegacyStatus | None
) -> Finding | str | None:
    """Return a finding, or what could not be found out, or None if all is well."""
    if agent is None or standing is None:
        return _nameless(one)
    if standing.life is LegacyState.UNKNOWN:
        return f"agent {one.agent_id} of the old system: {standing.why}"
    if one.lives:
        return None if standing.life is LegacyState.ALIVE else _lost(one, agent, standing)
    return _ended(one, agent, standing)


def _nameless(one: LegacyRecord) -> Finding | str | None:
    if one.record is None:
        return Finding(
            kind=FindingKind.ORPHAN_RECORD,
            is_old=True,
            agent_id=one.agent_id,
            task_id=one.task_id,
            subject=f"entry of {one.agent_id} in the global registry",
            what="the old system lists it as living, and its task does not know it",
            proofs=("the global registry lists it",),
        )
    if not one.lives:
        return None
    return f"agent {one.agent_id} of the old system: under its names nothing can be asked for"


def _lost(one: LegacyRecord, agent: LegacyAgent, standing: LegacyStatus) -> Finding:
    return _finding(
        FindingKind.LOST,
        one,
        standing,
        what=f"the old system shows it as {agent.status!r}, and nothing of it lives",
    )


def _ended(one: LegacyRecord, agent: LegacyAgent, standing: LegacyStatus) -> Finding | None:
    left = []
    if standing.life is LegacyState.ALIVE:
        left.append("it lives on")
    if agent.files.present:
        left.append(f"{len(agent.files.present)} of its files are where they were")
    if one.entry is not None:
        left.append("the global registry lists it as living")
    if not left:
        return None
    what = f"the old system shows it as {agent.status!r}; {', '.join(left)}"
    return _finding(FindingKind.ENDED, one, standing, what=what)


def _finding(kind: FindingKind, one: LegacyRecord, standing: LegacyStatus, *, what: str) -> Finding:
    return Finding(
        kind=kind,
        is_old=True,
        agent_id=one.agent_id,
        task_id=one.task_id,
        subject=f"agent {one.agent_id} of the old system",
        what=what,
        proofs=standing.proofs,
        action=FINDINGS[kind].reap_action,
    )
