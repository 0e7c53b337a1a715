"""
What was seen, against what the journals account for: findings, and nothing is asked.

Each comparison is a function of one :class:`~orchestrator_core.reconcile.sweep.snapshot.Look`.
Where a look has None, nothing is compared: what could not be asked is no finding.

=============== ==================================================================
here            what an open journal, and the kernel's word on it, tell by themselves
strays          things that are ours by their marks, and in no open journal
disagreements   registries that tell another story than the journals
=============== ==================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.reconcile.sweep import mismatches as disagreements
from orchestrator_core.reconcile.sweep import orphans as strays
from orchestrator_core.reconcile.sweep.candidates import Candidate, Source, saga_candidate
from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, FindingKind
from orchestrator_core.saga import State
from orchestrator_core.system.clock import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator_core.reconcile.sweep.legacy_agents import LegacyRecord
    from orchestrator_core.reconcile.sweep.saga_snapshot import Seen
    from orchestrator_core.reconcile.sweep.snapshot import Look
    from orchestrator_core.registry.snapshot_cache import RegistrySnapshot
    from orchestrator_core.system.processes.protocol import ExitRecord


@attrs.frozen(kw_only=True)
class Comparison:
    """What one look comes to."""

    candidates: tuple[Candidate, ...] = ()
    alive: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    old: tuple[LegacyRecord, ...] = ()  #: The old system's agents, for their own code.


def compare(look: Look, *, silent_after_s: float, now: float) -> Comparison:
    """Return what is to be found in *look*; *now* is the time of day."""
    if look.sagas is None:
        return Comparison()
    seen = look.sagas.values()
    old = strays.old_records(look)
    candidates = [
        *(candidate for one in seen for candidate in _of_saga(one, look)),
        *_silent(look, silent_after_s, now),
        *strays.of(look, old),
        *disagreements.of(look),
        *_damaged(look),
    ]
    return Comparison(
        candidates=tuple(candidates),
        alive=tuple(one.agent_id for one in seen if one.lives),
        busy=tuple(one.agent_id for one in seen if one.owned),
        old=tuple(old.values()),
    )


def _of_saga(seen: Seen, look: Look) -> Iterator[Candidate]:
    if seen.owned or seen.unknown:
        return
    if seen.history is None:
        yield _damaged_journal(seen)
    elif seen.history.state is State.STUCK:
        yield _stuck(seen)
    elif seen.history.state is not State.COMMITTED:
        yield _ownerless(seen)
    elif seen.dead:
        yield _dead(seen, look)
    elif seen.late:
        yield _overdue(seen)
    elif _has_lost_its_session(seen, look):
        yield _without_session(seen)


def _journal(seen: Seen) -> str:
    return f"the journal sagas/{seen.saga_id}.jsonl of this root tells what it holds"


_NO_OWNER = "nobody holds its journal's lock, which the kernel keeps for as long as an owner lives"


def _ownerless(seen: Seen) -> Candidate:
    assert seen.history is not None  # noqa: S101 - see the caller
    told = {
        State.RUNNING: "its deployment was left half-way",
        State.UNWINDING: "its unwinding was left half-way",
        State.CLOSED: "it was unwound, and its journal not put away",
    }
    return saga_candidate(
        FindingKind.ABANDONED,
        seen,
        what=f"{told[seen.history.state]}: who was at it has died",
        proofs=(_journal(seen), _NO_OWNER),
    )


def _stuck(seen: Seen) -> Candidate:
    assert seen.history is not None  # noqa: S101 - see the caller
    failures = "; ".join(f"{step}: {error}" for step, error in seen.history.failures.items())
    return saga_candidate(
        FindingKind.STUCK,
        seen,
        what=f"it could not be unwound in {seen.history.tries} tries: {failures}",
        proofs=(_journal(seen), _NO_OWNER),
    )


def _dead(seen: Seen, look: Look) -> Candidate:
    if seen.witnessed is not None:
        return saga_candidate(
            FindingKind.ENDED,
            seen,
            what=f"{_told(seen.witnessed)}, and nobody has unwound it",
            proofs=(_journal(seen), "its supervisor, which is gone, has witnessed its end"),
        )
    return saga_candidate(
        FindingKind.LOST,
        seen,
        what=_how_lost(seen, look),
        proofs=(_journal(seen), _supervisor_is_dead(seen)),
    )


def _told(witnessed: ExitRecord) -> str:
    if witnessed.error:
        return f"it never ran: {witnessed.error}"
    if witnessed.signal is not None:
        return f"it was ended by signal {witnessed.signal}"
    return f"it left with exit status {witnessed.code}"


def _supervisor_is_dead(seen: Seen) -> str:
    who = None if seen.receipt is None else seen.receipt.supervisor
    if who is None:
        return "its supervisor has never been seen alive"
    return f"its supervisor, pid {who.pid}, is dead: no process of that pid has its start time"


def _how_lost(seen: Seen, look: Look) -> str:
    receipt = seen.receipt
    if receipt is None or receipt.supervisor is None:
        return "its supervisor was never there"
    if look.boot_id not in (None, receipt.supervisor.boot_id):
        return "the machine has been started anew since"
    gone = ["its supervisor was killed"]
    if look.sessions == ():
        gone = ["its tmux server is gone, with its supervisor"]
    elif look.sessions is not None and not _has_session(seen, look):
        gone = ["its session and its supervisor are gone"]
    left = [one for one in look.processes or () if one.cookie == receipt.cookie]
    if left:
        shown = ", ".join(f"{one.identity.pid} ({one.name})" for one in left[:5])
        gone.append(f"{len(left)} of its processes live on: {shown}")
    return "; ".join(gone)


def _overdue(seen: Seen) -> Candidate:
    assert seen.receipt is not None  # noqa: S101 - no saga without an agent has a deadline
    return saga_candidate(
        FindingKind.OVERDUE,
        seen,
        what="it lives past its deadline, and its supervisor has not ended it",
        proofs=(_journal(seen), _cookie_in_environment(seen)),
    )


def _cookie_in_environment(seen: Seen) -> str:
    assert seen.receipt is not None  # noqa: S101 - as above
    who = seen.receipt.supervisor
    pid = "" if who is None else f", pid {who.pid},"
    return f"its supervisor{pid} is the one that its journal names, by boot, pid and start time"


def _has_lost_its_session(seen: Seen, look: Look) -> bool:
    if seen.witnessed is not None:
        return False  # Its supervisor has seen it end, and is at it.
    known = look.sessions is not None and look.processes is not None
    return known and seen.session is not None and not _has_session(seen, look)


def _has_session(seen: Seen, look: Look) -> bool:
    """Tell whether there is a session that is the agent's, by its mark or by its pane."""
    assert seen.receipt is not None  # noqa: S101 - see the callers
    if seen.receipt.cookie in look.owners:
        return True
    who = seen.receipt.supervisor
    return who is not None and any(one.pane_pid == who.pid for one in look.sessions or ())


def _without_session(seen: Seen) -> Candidate:
    return saga_candidate(
        FindingKind.LOST,
        seen,
        what="its session is gone; its supervisor lives, and has not noticed, or is at it",
        proofs=(_journal(seen), _cookie_in_environment(seen)),
        doubts=frozenset({Source.SESSIONS, Source.PROCESSES}),
    )


# --- silent -------------------------------------------------------------------------------


def _silent(look: Look, silent_after_s: float, now: float) -> Iterator[Candidate]:
    for seen in (look.sagas or {}).values():
        if not seen.lives or seen.late:
            continue
        limit_s = seen.labels.get("silent_after_s") or silent_after_s
        if seen.wrote_at is not None and now - seen.wrote_at <= limit_s:
            continue
        record = look.records.get(seen.task_id or "", {}).get(seen.agent_id, {})
        silent_s = now - _last_sign(seen, record, now)
        if silent_s > limit_s:
            yield saga_candidate(
                FindingKind.SILENT,
                seen,
                what=f"it has neither written nor reported for {_duration(silent_s)}; "
                f"its limit is {_duration(limit_s)}",
                proofs=(_journal(seen),),
            )


def _last_sign(seen: Seen, record: Mapping[str, Any], now: float) -> float:
    """Return when it last gave a sign of life. One from the future was given just now."""
    assert seen.history is not None  # noqa: S101 - it lives
    signs = (
        seen.wrote_at,
        parse_timestamp(record.get("last_update")),
        parse_timestamp(seen.history.begun_at),
    )
    known = [min(sign, now) for sign in signs if sign is not None]
    return max(known, default=now)


def _duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    if seconds < 7200:  # noqa: PLR2004 - two hours
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# --- damaged --------------------------------------------------------------------------------


def _damaged_journal(seen: Seen) -> Candidate:
    return saga_candidate(
        FindingKind.DAMAGED,
        seen,
        subject=f"journal {seen.saga_id}",
        what=f"it cannot be used: {seen.damage}",
        proofs=(
            "its name is that of a journal of this root, in a directory that only we may write to",
            "nobody who lives writes to it, and it does not check",
        ),
    )


def _damaged(look: Look) -> Iterator[Candidate]:
    registries: dict[str | None, RegistrySnapshot] = {}
    registries.update(look.tasks or {})
    if look.living is not None:
        registries[None] = look.living
    for task_id, registry in registries.items():
        if registry.damage:
            yield Candidate(_damaged_registry(task_id, registry.damage))
    for path in look.kept_aside:
        yield Candidate(
            Finding(
                kind=FindingKind.DAMAGED,
                subject=path,
                what="it could not be used, and was kept aside",
                proofs=("its name is one that we give to what is damaged",),
            )
        )


def _damaged_registry(task_id: str | None, damage: str) -> Finding:
    return Finding(
        kind=FindingKind.DAMAGED,
        task_id=task_id,
        subject="the global registry" if task_id is None else f"the registry of {task_id}",
        what=f"it cannot be used: {damage}",
        proofs=(
            "its name is that of a registry of this root",
            "it was replaced as a whole, as all of ours are, and is no such document",
        ),
        action=FINDINGS[FindingKind.DAMAGED].reap_action,
    )
