"""
Orphans: resources that carry this root's marks, and that no open saga accounts for.

The *proofs* of an orphan come from sources that do not depend on each other: the name, the
mark on the session, the cookie in a process's environment, a cgroup, a journal, a registry,
the content of a file. Any number of files with an agent's name are one proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from orchestrator_core.reconcile.sweep.findings import FindingKind, FindingSubject
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator

    from orchestrator_core.reconcile.sweep.findings import Finding
    from orchestrator_core.reconcile.sweep.named_files import NamedFile
    from orchestrator_core.reconcile.sweep.snapshot import Snapshot
    from orchestrator_core.system.processes.protocol import TaggedProcess
    from orchestrator_core.system.terminal import Session


def detect_orphans(snapshot: Snapshot, legacy: Container[str]) -> Iterator[Finding]:
    """Yield the orphans in *snapshot*, without those of *legacy* agents."""
    orphaned = {agent for agent in snapshot.agents_without_saga if agent not in legacy}
    proofs = _Proofs(snapshot, orphaned)
    for file in _held_directories(snapshot, orphaned):
        orphaned.remove(file.agent_id)
        yield _without_journal(file, proofs)
    for session in snapshot.sessions or ():
        agent_id = snapshot.agent_for_cookie(session.owner)
        if agent_id in orphaned:
            yield _session(session, agent_id, proofs)
    for process in snapshot.processes or ():
        agent_id = snapshot.agent_for_cookie(process.cookie)
        if agent_id in orphaned and not _is_server(process):
            yield _process(process, agent_id, proofs)
    for file in snapshot.files:
        if file.agent_id in orphaned and _registry_is_known(file, snapshot):
            yield _file(file, proofs)
    for entry in snapshot.live_entries:
        # With a closed saga it is a mismatch.
        if entry.agent_id in orphaned - snapshot.agents_with_closed_saga:
            what = "it shows an agent as alive that is in no journal, open or closed"
            yield entry.finding(
                FindingKind.ORPHAN_RECORD, what, *proofs.all[entry.agent_id].values()
            )


def detect_removed(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield the processes of agents whose roots, others than this one, were removed."""
    for agent in snapshot.of_removed_roots:
        for process in agent.processes:
            subject = f"process {process.identity.pid} ({process.name})"
            found = FindingSubject(None, None, subject).finding(
                FindingKind.ORPHAN_PROCESS,
                f"it is of the agent {agent.agent_id}, whose root {agent.root} was removed",
                f"its environment has the cookie {agent.cookie}",
                f"the agent's log, which is open, was removed with {agent.root}",
            )
            action = "ends all processes of that agent"
            yield attrs.evolve(found, action=action, removed_cookie=agent.cookie)


def _held_directories(snapshot: Snapshot, orphaned: Collection[str]) -> list[NamedFile]:
    """Return the run directories of living supervisors whose agents have no journal at all."""
    recorded = {entry.agent_id for entry in snapshot.live_entries}
    without_journal = set(orphaned) - snapshot.agents_with_closed_saga
    return [
        file
        for file in snapshot.files
        if file.is_held and file.agent_id in without_journal & recorded
    ]


def _without_journal(file: NamedFile, proofs: _Proofs) -> Finding:
    agent_id = file.agent_id
    found = proofs.subject(agent_id, f"agent {agent_id}", file.task_id).finding(
        FindingKind.MISMATCH,
        "its journal was removed, and the agent is alive",
        f"its supervisor is alive: it holds the lock on {file.path}",
        *proofs.all[agent_id].values(),
    )
    return attrs.evolve(found, action="writes its journal anew, from its record and its session")


def _is_server(process: TaggedProcess) -> bool:
    """Return whether a process is a tmux server, which may host the sessions of others."""
    return process.name.startswith("tmux: server")


def _registry_is_known(file: NamedFile, snapshot: Snapshot) -> bool:
    """Return whether the record of a file's agent is known, or is no longer of interest."""
    if file.task_id is None or file.agent_id in snapshot.agents_with_closed_saga:
        return True
    return snapshot.document(file.task_id) is not None


def _session(session: Session, agent_id: str, proofs: _Proofs) -> Finding:
    has_name = session.name == f"agent_{agent_id}"
    name = (f"it has exactly the name of the session of {agent_id}",) if has_name else ()
    mark = f"its @orchestrator_owner is {session.owner}"
    return proofs.subject(agent_id, f"session {session.name}").finding(
        FindingKind.ORPHAN_SESSION,
        f"it carries the mark of {agent_id}, which is in no open saga",
        *(*name, mark, *proofs.without(agent_id, "session")),
        reapable=has_name,
    )


def _process(process: TaggedProcess, agent_id: str, proofs: _Proofs) -> Finding:
    cookie = f"its environment has the cookie {process.cookie}"
    subject = f"process {process.identity.pid} ({process.name})"
    return proofs.subject(agent_id, subject).finding(
        FindingKind.ORPHAN_PROCESS,
        f"it carries the cookie of {agent_id}, which is in no open saga",
        *(cookie, *proofs.without(agent_id, "process")),
        reapable=is_id(agent_id),
    )


def _file(file: NamedFile, proofs: _Proofs) -> Finding:
    name = f"it has the name of the {file.what} of {file.agent_id}"
    content = ("its content names that agent, too",) if file.names_agent else ()
    source = "cgroup" if file.what == "cgroup" else "name"
    return proofs.subject(file.agent_id, file.path, file.task_id).finding(
        FindingKind.ORPHAN_FILE,
        f"a {file.what} of {file.agent_id}, which is in no open saga",
        *(name, *content, *proofs.without(file.agent_id, source, "name")),
        reapable=not file.is_foreign,
    )


class _Proofs:
    """What each source of a snapshot proves about the *orphaned* agents, and their tasks."""

    def __init__(self, snapshot: Snapshot, orphaned: Collection[str]) -> None:
        self.all: dict[str, dict[str, str]] = {agent_id: {} for agent_id in orphaned}
        self.task_ids: dict[str, str] = {}
        for agent_id, known in self.all.items():
            cookie = f"{snapshot.prefix}{agent_id}"
            if agent_id in snapshot.agents_with_closed_saga:
                known["journal"] = f"the closed journal sagas/closed/{agent_id}.jsonl is its own"
            for task_id, agents in snapshot.records.items():
                if agent_id in agents:
                    known["record"] = f"the registry of {task_id} has a record of it"
                    self.task_ids.setdefault(agent_id, task_id)
            if agent_id in snapshot.global_entries:
                known["entry"] = "the global registry lists it"
            if any(session.owner == cookie for session in snapshot.sessions or ()):
                known["session"] = f"a session carries the mark {cookie}"
            if any(process.cookie == cookie for process in snapshot.processes or ()):
                known["process"] = f"a process carries the cookie {cookie}"
        for file in snapshot.files:
            if file.agent_id in self.all:
                self._add_file(file)

    def _add_file(self, file: NamedFile) -> None:
        if file.task_id is not None:
            self.task_ids.setdefault(file.agent_id, file.task_id)
        if not file.is_foreign:
            source = "cgroup" if file.what == "cgroup" else "name"
            text = f"there is a {file.what} of its name: {file.path}"
            self.all[file.agent_id].setdefault(source, text)

    def subject(self, agent_id: str, name: str, task_id: str | None = None) -> FindingSubject:
        """Return the subject of a finding about a thing of an agent."""
        return FindingSubject(agent_id, task_id or self.task_ids.get(agent_id), name)

    def without(self, agent_id: str, *sources: str) -> tuple[str, ...]:
        """Return the proofs of an agent from all but *sources*."""
        known = self.all[agent_id]
        return tuple(text for source, text in known.items() if source not in sources)
