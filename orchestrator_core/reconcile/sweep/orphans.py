"""
Strays: what is ours by its marks, and in no open journal.

What something is known to be ours by are its *proofs*, from sources that do not
lean on each other: the name, the mark on the session, the cookie in a process's
environment, a cgroup, a journal, a registry, what is written in a file. Many
things of one name are one proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from orchestrator_core.reconcile.legacy import is_legacy
from orchestrator_core.reconcile.sweep.candidates import Candidate, Source
from orchestrator_core.reconcile.sweep.findings import FINDINGS, Finding, FindingKind
from orchestrator_core.reconcile.sweep.legacy_agents import LegacyRecord
from orchestrator_core.reconcile.sweep.registry_entries import shows_living
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from orchestrator_core.reconcile.sweep.named_files import Trace
    from orchestrator_core.reconcile.sweep.snapshot import Look
    from orchestrator_core.system.processes.protocol import TaggedProcess
    from orchestrator_core.system.terminal import Session

    IsStray = Callable[[str | None], TypeGuard[str]]


def of(look: Look, old: Container[str]) -> list[Candidate]:
    """Return the strays in *look*; those of *old* agents are not ours to judge."""
    proofs = _Proofs(look)
    known = look.accounted

    def is_stray(agent_id: str | None) -> TypeGuard[str]:
        return agent_id is not None and agent_id not in known and agent_id not in old

    comparisons = (_sessions, _processes, _traces, _records, _entries)
    return [stray for compare in comparisons for stray in compare(look, proofs, is_stray)]


def _sessions(look: Look, proofs: _Proofs, is_stray: IsStray) -> Iterator[Candidate]:
    for session in look.sessions or ():
        agent_id = look.agent_of(session.owner)
        if is_stray(agent_id):
            yield _session(session, agent_id, proofs)


def _processes(look: Look, proofs: _Proofs, is_stray: IsStray) -> Iterator[Candidate]:
    for marked in look.processes or ():
        agent_id = look.agent_of(marked.cookie)
        if is_stray(agent_id) and not _is_server(marked):
            yield _process(marked, agent_id, proofs)


def _traces(look: Look, proofs: _Proofs, is_stray: IsStray) -> Iterator[Candidate]:
    for trace in look.traces or ():
        if is_stray(trace.agent_id) and _can_be_judged(trace, look):
            yield _trace(trace, look, proofs)


def _records(look: Look, proofs: _Proofs, is_stray: IsStray) -> Iterator[Candidate]:
    for entered in look.recorded:
        if is_stray(entered.agent_id) and entered.agent_id not in look.closed:
            where = f"record of {entered.agent_id} in {entered.task_id}"
            yield _record(entered.agent_id, entered.task_id, where, "record", proofs)


def _entries(look: Look, proofs: _Proofs, is_stray: IsStray) -> Iterator[Candidate]:
    for entered in look.listed:
        if is_stray(entered.agent_id) and entered.agent_id not in look.closed:
            where = f"entry of {entered.agent_id} in the global registry"
            yield _record(entered.agent_id, entered.task_id, where, "entry", proofs)


def old_records(look: Look) -> dict[str, LegacyRecord]:
    """Return the agents that only the old system can have recorded, living and ended."""
    known = look.accounted | look.closed
    entries = {entered.agent_id: entered for entered in look.listed}
    found = {}
    for task_id, agents in look.present.items():
        for agent_id, record in agents.items():
            # Most records are of ended agents of ours: this is asked first, and says so.
            if is_legacy(record) and agent_id not in known:
                entry = entries.get(agent_id)
                found[agent_id] = LegacyRecord(
                    agent_id=agent_id,
                    task_id=task_id,
                    record=record,
                    entry=None if entry is None else entry.record,
                    lives=shows_living(record),
                )
    for agent_id, entered in entries.items():
        if agent_id not in found and agent_id not in known and is_legacy(entered.record):
            if agent_id in look.records.get(entered.task_id, {}):
                continue  # A record of ours: its entry is no less so.
            found[agent_id] = LegacyRecord(
                agent_id=agent_id, task_id=entered.task_id, entry=entered.record, lives=True
            )
    return found


def _is_server(marked: TaggedProcess) -> bool:
    """Tell whether it is a tmux server: one that an agent started may host others' sessions."""
    return marked.name.startswith("tmux: server")


def _can_be_judged(trace: Trace, look: Look) -> bool:
    """Tell whether it is known what the registry of its task says of its agent."""
    if trace.task_id is None or trace.agent_id in look.closed:
        return True
    registry = (look.tasks or {}).get(trace.task_id)
    return registry is not None and registry.document is not None


# --- what each would be ------------------------------------------------------------------------


def _stray(
    kind: FindingKind,
    agent_id: str,
    task_id: str | None,
    subject: str,
    what: str,
    proofs: list[str],
    *,
    ours: bool = True,
) -> Candidate:
    finding = Finding(
        kind=kind,
        agent_id=agent_id,
        task_id=task_id,
        subject=subject,
        what=what,
        proofs=tuple(proofs),
        action=FINDINGS[kind].reap_action if ours else "",
    )
    return Candidate(finding, _DOUBTS[kind])


_DOUBTS = {
    FindingKind.ORPHAN_SESSION: frozenset({Source.SESSIONS}),
    FindingKind.ORPHAN_PROCESS: frozenset({Source.PROCESSES}),
    FindingKind.ORPHAN_FILE: frozenset({Source.FILES, Source.REGISTRIES}),
    FindingKind.ORPHAN_RECORD: frozenset({Source.REGISTRIES}),
}


def _session(session: Session, agent_id: str, proofs: _Proofs) -> Candidate:
    named_so = session.name == f"agent_{agent_id}"
    name = [f"it has exactly the name of the session of {agent_id}"] if named_so else []
    return _stray(
        FindingKind.ORPHAN_SESSION,
        agent_id,
        proofs.task_of(agent_id),
        f"session {session.name}",
        f"it carries the mark of {agent_id}, of which no open saga tells",
        [*name, f"its @orchestrator_owner is {session.owner}", *proofs.of(agent_id, but="session")],
        ours=named_so,
    )


def _process(marked: TaggedProcess, agent_id: str, proofs: _Proofs) -> Candidate:
    cookie = f"its environment has the cookie {marked.cookie}"
    return _stray(
        FindingKind.ORPHAN_PROCESS,
        agent_id,
        proofs.task_of(agent_id),
        f"process {marked.identity.pid} ({marked.name})",
        f"it carries the cookie of {agent_id}, of which no open saga tells",
        [cookie, *proofs.of(agent_id, but="process")],
        ours=is_id(agent_id),
    )


def _trace(trace: Trace, look: Look, proofs: _Proofs) -> Candidate:
    mine = [f"it has the name of the {trace.what} of {trace.agent_id}"]
    if trace.path in look.telling:
        mine.append("its content names that agent, too")
    source = "cgroup" if trace.what == "cgroup" else "name"
    return _stray(
        FindingKind.ORPHAN_FILE,
        trace.agent_id,
        trace.task_id or proofs.task_of(trace.agent_id),
        trace.path,
        f"a {trace.what} of {trace.agent_id}, of which no open saga tells",
        [*mine, *proofs.of(trace.agent_id, but=source, without_files=True)],
        ours=trace.path not in look.foreign,
    )


def _record(agent_id: str, task_id: str, where: str, source: str, proofs: _Proofs) -> Candidate:
    return _stray(
        FindingKind.ORPHAN_RECORD,
        agent_id,
        task_id,
        where,
        "it shows an agent as living, of which no journal tells, open or closed",
        [f"{proofs.words(agent_id, source)}", *proofs.of(agent_id, but=source)],
    )


class _Proofs:
    """All that a look has to say of agents that no open saga accounts for, by source."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._records = look.records

    def of(self, agent_id: str, *, but: str, without_files: bool = False) -> list[str]:
        """Return what is known of an agent from all sources *but* one, a line each."""
        left_out = {but, "name"} if without_files else {but}
        return [words for source, words in self._all(agent_id).items() if source not in left_out]

    def words(self, agent_id: str, source: str) -> str:
        """Return what one source says of it."""
        return self._all(agent_id)[source]

    def task_of(self, agent_id: str) -> str | None:
        """Return its task, if anything but a journal leads to one."""
        for task_id, agents in self._records.items():
            if agent_id in agents:
                return task_id
        found = (trace.task_id for trace in self._look.traces or () if trace.agent_id == agent_id)
        return next((task_id for task_id in found if task_id is not None), None)

    def _all(self, agent_id: str) -> dict[str, str]:
        look = self._look
        known: dict[str, str] = {}
        if agent_id in look.closed:
            known["journal"] = f"the closed journal sagas/closed/{agent_id}.jsonl tells of it"
        for task_id, agents in self._records.items():
            if agent_id in agents:
                known["record"] = f"the registry of {task_id} has a record of it"
        if any(entered.agent_id == agent_id for entered in look.listed):
            known["entry"] = "the global registry lists it"
        cookies = {session.owner for session in look.sessions or ()}
        cookie = f"{look.prefix}{agent_id}"
        if cookie in cookies:
            known["session"] = f"a session carries the mark {cookie}"
        if any(marked.cookie == cookie for marked in look.processes or ()):
            known["process"] = f"a process carries the cookie {cookie}"
        for trace in look.traces or ():
            if trace.agent_id == agent_id and trace.path not in look.foreign:
                if trace.what == "cgroup":
                    known["cgroup"] = f"there is a cgroup of its name: {trace.path}"
                else:
                    known.setdefault("name", f"there is a {trace.what} of its name: {trace.path}")
        return known
