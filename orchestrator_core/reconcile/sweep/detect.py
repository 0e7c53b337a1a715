"""
Detect findings in one snapshot: a pure function, which reads nothing.

A source that the snapshot lacks is not compared with anything, so no finding comes from a
source that could not be read.

The findings come from an open journal, from registries that contradict the journals, and
from damaged files. :mod:`.orphans` finds what carries this root's marks and is in no open
journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.model.outcome import describe_exit
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.sweep.findings import FindingKind, FindingSubject
from orchestrator_core.reconcile.sweep.orphans import detect_orphans, detect_removed
from orchestrator_core.saga import State
from orchestrator_core.system.clock import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from orchestrator_core.reconcile.sweep.findings import Finding
    from orchestrator_core.reconcile.sweep.saga_snapshot import SagaState
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot


def detect(
    snapshot: Snapshot, legacy: Container[str], *, silent_after_s: float, now: float
) -> list[Finding]:
    """
    Return the findings in *snapshot*; *now* is the time in seconds since 1970.

    The *legacy* agents are left out: :mod:`.legacy_agents` judges them.
    """
    findings = list(detect_removed(snapshot))
    if snapshot.sagas is None:
        return findings
    for state in snapshot.sagas.values():
        if not (state.has_owner or state.unknown):
            findings += _of_saga(state, snapshot)
    for state in snapshot.sagas.values():
        if state.is_alive and not state.past_deadline:
            findings += _silent(state, snapshot, silent_after_s, now)
    findings += (*detect_orphans(snapshot, legacy), *_mismatches(snapshot))
    return [*findings, *_damaged(snapshot)]


# --- one open saga ------------------------------------------------------------------------------


def _of_saga(state: SagaState, snapshot: Snapshot) -> Iterator[Finding]:
    history = state.history
    if history is None:
        yield state.finding(
            FindingKind.DAMAGED,
            f"it cannot be used: {state.damage}",
            "its name is that of a journal of this root, in a directory that only its user may "
            "write to",
            "no live process writes to it, and its checksums do not match",
            subject=f"journal {state.saga_id}",
        )
        return
    journal = _journal(state)
    if history.state is State.STUCK:
        failures = "; ".join(f"{step}: {error}" for step, error in history.failures.items())
        what = f"it could not be unwound in {history.tries} tries: {failures}"
        yield state.finding(FindingKind.STUCK, what, journal, _NO_OWNER)
    elif history.state is not State.COMMITTED:
        what = f"{_LEFT_HALF_WAY[history.state]}: its owner has died"
        yield state.finding(FindingKind.ABANDONED, what, journal, _NO_OWNER)
    elif verdict := _judge_committed(state, snapshot):
        kind, what, proof = verdict
        yield state.finding(kind, what, journal, proof)


def _judge_committed(state: SagaState, snapshot: Snapshot) -> tuple[FindingKind, str, str] | None:
    """Return the kind and the text of an agent's finding, and a proof; None if all is well."""
    if state.is_dead and state.exit is not None:
        what = f"{describe_exit(state.exit)}, and was not unwound"
        return FindingKind.ENDED, what, "its supervisor, which is gone, has recorded its end"
    if state.is_dead:
        return FindingKind.LOST, _describe_loss(state, snapshot), _dead_supervisor(state)
    if state.past_deadline:
        what = "it is alive past its deadline, and its supervisor has not ended it"
        return FindingKind.OVERDUE, what, _live_supervisor(state)
    if _has_lost_its_session(state, snapshot):
        what = "its session is gone, and its supervisor is alive: it has not noticed, or unwinds it"
        return FindingKind.LOST, what, _live_supervisor(state)
    return None


_NO_OWNER = "no process holds its journal's lock, which the kernel keeps while an owner lives"
_LEFT_HALF_WAY = {
    State.RUNNING: "its deployment was left half-way",
    State.UNWINDING: "its unwinding was left half-way",
    State.CLOSED: "it was unwound, and its journal not archived",
}


def _journal(state: SagaState) -> str:
    return f"the journal sagas/{state.saga_id}.jsonl of this root lists what it holds"


def _dead_supervisor(state: SagaState) -> str:
    if state.supervisor is None:
        return "its supervisor has never been seen alive"
    pid = state.supervisor.pid
    return f"its supervisor, pid {pid}, is dead: no process of that pid has its start time"


def _live_supervisor(state: SagaState) -> str:
    pid = "" if state.supervisor is None else f", pid {state.supervisor.pid},"
    return f"its supervisor{pid} is the one that its journal names, by boot, pid and start time"


def _describe_loss(state: SagaState, snapshot: Snapshot) -> str:
    receipt = state.receipt
    if receipt is None or receipt.supervisor is None:
        return "its supervisor was never there"
    if snapshot.boot_id not in (None, receipt.supervisor.boot_id):
        return "the machine has been restarted since"
    gone = "its supervisor was killed"
    if snapshot.sessions == ():
        gone = "its tmux server is gone, with its supervisor"
    elif snapshot.sessions is not None and not _has_session(state, snapshot):
        gone = "its session and its supervisor are gone"
    left = [each for each in snapshot.processes or () if each.cookie == receipt.cookie]
    if not left:
        return gone
    names = ", ".join(f"{each.identity.pid} ({each.name})" for each in left[:5])
    return f"{gone}; {len(left)} of its processes are alive: {names}"


def _has_lost_its_session(state: SagaState, snapshot: Snapshot) -> bool:
    if None in (state.session, snapshot.sessions, snapshot.processes):
        return False
    # With an exit record, its supervisor is unwinding it. With a terminal, its session lives.
    is_gone = state.exit is None and not state.is_unreachable
    return is_gone and not _has_session(state, snapshot)


def _has_session(state: SagaState, snapshot: Snapshot) -> bool:
    """Return whether some session is the agent's, by its mark or by its pane."""
    cookie = None if state.receipt is None else state.receipt.cookie
    pid = None if state.supervisor is None else state.supervisor.pid
    return cookie in snapshot.session_owners or pid in snapshot.session_panes


# --- silent -------------------------------------------------------------------------------------


def _silent(
    state: SagaState, snapshot: Snapshot, silent_after_s: float, now: float
) -> Iterator[Finding]:
    limit_s = state.labels.get("silent_after_s") or silent_after_s
    record = snapshot.records.get(state.task_id or "", {}).get(state.agent_id, {})
    silent_s = now - _last_sign_of_life(state, record, now)
    if silent_s > limit_s:
        what = (
            f"it has neither written nor reported for {_format_duration(silent_s)}; "
            f"its limit is {_format_duration(limit_s)}"
        )
        yield state.finding(FindingKind.SILENT, what, _journal(state))


def _last_sign_of_life(state: SagaState, record: Mapping[str, Any], now: float) -> float:
    """Return the time of the last sign of life. A time in the future counts as *now*."""
    begun_at = None if state.history is None else state.history.begun_at
    reported_at = parse_timestamp(record.get("last_update"))
    signs = (state.wrote_at, reported_at, parse_timestamp(begun_at))
    return max((min(sign, now) for sign in signs if sign is not None), default=now)


def _format_duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    if seconds < 7200:  # noqa: PLR2004 - two hours
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# --- mismatches ---------------------------------------------------------------------------------


def _mismatches(snapshot: Snapshot) -> Iterator[Finding]:
    """
    Yield where the registries contradict the journals about whether an agent is alive.

    The journal counts: each entry is written before the fact, and no user edits a journal.
    """
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
    agent_id, task_id, registry = state.agent_id, state.task_id or "", snapshot.global_registry
    records: dict[str, Mapping[str, Any] | None] = {}
    if snapshot.document(task_id) is not None:
        records[f"record of {agent_id} in {task_id}"] = snapshot.records[task_id].get(agent_id)
    elif task_id in snapshot.removed:
        yield _removed_registry(state, task_id, is_directory_left=snapshot.removed[task_id])
    if registry.document is not None or registry.missing:
        entry = snapshot.global_entries.get(agent_id)
        records[f"entry of {agent_id} in the global registry"] = (
            None if entry is None else entry.record
        )
    for subject, record in records.items():
        wrong = "it is missing" if record is None else f"its status is {record.get('status')!r}"
        if record is None or not is_active(record.get("status")):
            yield state.finding(
                FindingKind.MISMATCH,
                f"{wrong}, and the agent is alive",
                f"the state of the journal sagas/{state.saga_id}.jsonl is committed",
                "its supervisor is alive: the process that its journal names",
                subject=subject,
            )


def _removed_registry(state: SagaState, task_id: str, *, is_directory_left: bool) -> Finding:
    subject = f"record of {state.agent_id} in {task_id}"
    thing = "registry" if is_directory_left else "whole directory"
    return FindingSubject(state.agent_id, task_id, subject).finding(
        FindingKind.MISMATCH,
        f"its task's {thing} was removed, and the agent is alive",
        f"the state of the journal sagas/{state.saga_id}.jsonl is committed",
        "its supervisor is alive: the process that its journal names",
        saga_id=state.saga_id,
        reapable=is_directory_left,  # Without the directory, only the agent's end helps.
    )


# --- damaged ------------------------------------------------------------------------------------


def _damaged(snapshot: Snapshot) -> Iterator[Finding]:
    for about, registry in snapshot.registries:
        if registry.damage:
            yield about.finding(
                FindingKind.DAMAGED,
                f"it cannot be used: {registry.damage}",
                "its name is that of a registry of this root",
                "every writer replaces it as a whole, and it is no complete document",
            )
    for path in snapshot.quarantined:
        yield FindingSubject(None, None, path).finding(
            FindingKind.DAMAGED,
            "it could not be used, and was kept aside",
            "its name is one that only damaged files get",
            reapable=False,
        )
