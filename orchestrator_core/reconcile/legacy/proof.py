"""
Whether a legacy agent is alive, and the proof that what is alive belongs to it.

A name proves nothing by itself, since anybody may give a session any name. So a session is
the agent's only by two proofs of two kinds:

- the session's exact name is the one *recorded* for the agent; and
- a process in it *writes the agent's log*, or has the agent's prompt as its input, by device
  and inode; or the session *started* when the agent did, by its record, and works where the
  agent was to work.

A session of the recorded name that started at another time, and does not use the agent's
files, is foreign. Everything between is unknown, and so is everything if the server
or the machine cannot be asked. Nothing is changed for an unknown agent.

All agents of one request share one call to tmux and one pass over the open files.
"""

from __future__ import annotations

import enum
import os
import stat
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk, TerminalError
from orchestrator_core.reconcile.legacy.server_protocol import legacy_server
from orchestrator_core.system.processes.protocol import FileId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.reconcile.legacy.server_protocol import LegacySession
    from orchestrator_core.system.processes.protocol import Identity, OpenFile, Processes

_START_S = 60.0  #: At most this long from a session's start to its agent's record.
_ZONE_S = 900.0  #: Time zones differ by multiples of this; the records have no zone.
_ZONES_S = 26 * 3600.0  #: No two time zones differ by more.


class LegacyState(enum.Enum):
    """What is known about a legacy agent's life."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class LegacyStatus:
    """The state of a legacy agent, with its proofs."""

    life: LegacyState
    proofs: tuple[str, ...] = ()
    why: str = ""  #: For UNKNOWN: what is missing.
    session: LegacySession | None = None  #: The session of a live agent, if it has one.
    roots: tuple[Identity, ...] = ()  #: The agent's processes; their descendants are its, too.


def inspect_all(context: RootContext, agents: Sequence[LegacyAgent]) -> dict[str, LegacyStatus]:
    """Inspect the machine once; return the status of each of *agents* by id."""
    if not agents:
        return {}
    try:
        snapshot = _LegacySnapshot(context, agents)
    except (TerminalError, CouldNotAsk) as error:
        unknown = LegacyStatus(life=LegacyState.UNKNOWN, why=str(error))
        return {agent.id: unknown for agent in agents}
    return {agent.id: snapshot.status(agent) for agent in agents}


def writers_of(
    processes: Processes, logs: Iterable[Path], started_at: float | None
) -> list[OpenFile]:
    """Return the writers of *logs* that started when their agent did."""
    open_files = processes.find_open_files(file_ids(logs))
    return [each for each in open_files if _is_agents_writer(processes, each, started_at)]


def users_of(processes: Processes, files: Iterable[Path]) -> tuple[OpenFile, ...]:
    """Return the open descriptors of *files* in all processes."""
    return processes.find_open_files(file_ids(files))


class _LegacySnapshot:
    """The sessions of the default server, and the processes that have agents' files open."""

    def __init__(self, context: RootContext, agents: Sequence[LegacyAgent]) -> None:
        self._processes = context.processes
        self._sessions = {session.name: session for session in legacy_server(context).sessions()}
        self._logs = {agent.id: file_ids(agent.logs) for agent in agents}
        self._prompts = {agent.id: file_ids([agent.files.prompt]) for agent in agents}
        files = set().union(*self._logs.values(), *self._prompts.values())
        self._open_files = context.processes.find_open_files(files)

    def status(self, agent: LegacyAgent) -> LegacyStatus:
        """Return one agent's status."""
        recorded = f"{agent.session!r} is recorded for it in {agent.task_id}"
        session = self._sessions.get(agent.session)
        if session is None:
            return self._without_session(agent, recorded, "there is no session of that name")
        proofs = self._pane_proofs(agent, session)
        if proofs:
            return LegacyStatus(
                life=LegacyState.ALIVE,
                proofs=(recorded, *dict.fromkeys(proofs.values())),
                session=attrs.evolve(session, panes=tuple(pane.pid for pane in proofs)),
                roots=tuple(proofs),
            )
        if _differs_in_any_timezone(session.created, agent.started_at):
            foreign = "the session of that name started at another time: it is foreign"
            return self._without_session(agent, recorded, foreign)
        why = f"only its name says that the session {agent.session!r} is {agent.id}'s"
        return LegacyStatus(life=LegacyState.UNKNOWN, proofs=(recorded,), why=why)

    def _pane_proofs(self, agent: LegacyAgent, session: LegacySession) -> dict[Identity, str]:
        """Return the panes that are the agent's. A person may have added a pane to watch it."""
        panes = [pane for pane in map(self._processes.identify, session.panes) if pane is not None]
        proofs = {
            pane: self._use_of_files(agent, pane) or self._start_time_proof(agent, session, pane)
            for pane in panes
        }
        return {pane: proof for pane, proof in proofs.items() if proof}

    def _use_of_files(self, agent: LegacyAgent, pane: Identity) -> str:
        logs = self._logs[agent.id]
        for each in self._users(agent):
            if pane in (each.process, *each.ancestors) or each.sid == pane.pid:
                use = "writes the agent's log" if each.file in logs else "reads the agent's prompt"
                return f"process {each.process.pid} ({each.name}) in it {use}"
        return ""

    def _users(self, agent: LegacyAgent) -> list[OpenFile]:
        """Return the open files by which a process writes the agent's log or reads its prompt."""
        logs, prompts = self._logs[agent.id], self._prompts[agent.id]
        return [
            each
            for each in self._open_files
            if (each.writes and each.file in logs) or (each.is_input and each.file in prompts)
        ]

    def _start_time_proof(self, agent: LegacyAgent, session: LegacySession, pane: Identity) -> str:
        starts = (session.created, _started_at(self._processes, pane))
        if not all(_matches_start(at, agent.started_at) for at in starts):
            return ""
        directory = self._processes.cwd_of(pane)
        if directory is None or not any(map(directory.is_relative_to, agent.places)):
            return ""
        return f"it started when the agent did, and works in {directory}"

    def _without_session(self, agent: LegacyAgent, recorded: str, absent: str) -> LegacyStatus:
        """Return the status of an agent without a session: alive if something writes its log."""
        users = self._users(agent)
        if not users:
            unwritten = ("no process has its log open for writing",) if self._logs[agent.id] else ()
            return LegacyStatus(life=LegacyState.GONE, proofs=(recorded, absent, *unwritten))
        started_at = agent.started_at
        writers = [each for each in users if _is_agents_writer(self._processes, each, started_at)]
        first = (writers or users)[0]
        name = f"process {first.process.pid} ({first.name})"
        if not writers:
            why = f"{name} has a file of {agent.id} open, and nothing else says that it is its own"
            return LegacyStatus(life=LegacyState.UNKNOWN, proofs=(recorded,), why=why)
        proofs = (
            f"{name} writes the log recorded for it in {agent.task_id}",
            f"{name} was started when the agent was",
        )
        return LegacyStatus(life=LegacyState.ALIVE, proofs=proofs, roots=roots_of(writers))


def roots_of(writers: Iterable[OpenFile]) -> tuple[Identity, ...]:
    """Return the writers of a log, and those of their ancestors that lead their POSIX session."""
    roots: dict[Identity, None] = {}
    for writer in writers:
        leaders = (each for each in writer.ancestors if each.pid == writer.sid)
        roots.update(dict.fromkeys((*leaders, writer.process)))
    return tuple(roots)


def _is_agents_writer(processes: Processes, each: OpenFile, started_at: float | None) -> bool:
    return each.writes and _matches_start(_started_at(processes, each.process), started_at)


def file_ids(paths: Iterable[Path]) -> set[FileId]:
    """Return the identities of those of *paths* that are regular files."""
    found = set()
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            found.add(FileId(status.st_dev, status.st_ino))
    return found


# --- times --------------------------------------------------------------------------------------


def _started_at(processes: Processes, process: Identity) -> float:
    """Return a process's start by today's clock, in seconds since 1970."""
    return time.time() - processes.age_s(process)


def _matches_start(start: float, recorded: float | None) -> bool:
    return recorded is not None and abs(start - recorded) <= _START_S


def _differs_in_any_timezone(start: float, recorded: float | None) -> bool:
    """Return whether the two times differ, whatever the time zone of *recorded*."""
    if recorded is None:
        return False
    apart = abs(start - recorded)
    from_a_zone = abs(apart - round(apart / _ZONE_S) * _ZONE_S)
    return apart > _START_S and (apart > _ZONES_S or from_a_zone > _START_S)
