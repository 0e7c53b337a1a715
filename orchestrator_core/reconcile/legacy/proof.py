"""
Whether an old agent lives, and whether what lives there is really its.

A name proves nothing by itself: anybody may call a session anything. So what is
taken for the agent's has two proofs, of two kinds:

- the session's exact name is the one that was *recorded* for the agent, and
- a process in it *writes the agent's log*, or has its prompt for an input, by
  device and inode; or it was *born* when the record says that the agent was, and
  works where the agent was to work.

A session of the recorded name that was born at another time, and has nothing to
do with the agent's files, is a stranger's. Anything in between is unknown, and
so is everything if the server or the machine could not be asked: then nothing
is changed.

Whoever looks for many looks once: one call to tmux, one pass over open files.
"""

from __future__ import annotations

import enum
import os
import stat
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk, TerminalError
from orchestrator_core.system.processes.protocol import FileId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.reconcile.legacy.server_protocol import LegacySession
    from orchestrator_core.system.processes.protocol import Identity, OpenFile, Processes

_BIRTH_S = 60.0  #: From a session's start to its agent's record, at most.
_ZONE_S = 900.0  #: Time zones differ by multiples of this; the records have none.
_ZONES_S = 26 * 3600.0


class LegacyState(enum.Enum):
    """What is known of an old agent's life."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class LegacyStatus:
    """How an old agent stands, and what says so."""

    life: LegacyState
    proofs: tuple[str, ...] = ()
    why: str = ""  #: For UNKNOWN: what is missing.
    session: LegacySession | None = None  #: The agent's, if it is alive and has one.
    roots: tuple[Identity, ...] = ()  #: Processes that are the agent's: all below them is.


def inspect_all(context: RootContext, agents: Sequence[LegacyAgent]) -> dict[str, LegacyStatus]:
    """Look at the world once, and return how each of *agents* stands, by its id."""
    if not agents:
        return {}
    try:
        look = _LegacySnapshot(context, agents)
    except (TerminalError, CouldNotAsk) as error:
        unknown = LegacyStatus(life=LegacyState.UNKNOWN, why=str(error))
        return {agent.id: unknown for agent in agents}
    return {agent.id: look.standing(agent) for agent in agents}


def writers_of(processes: Processes, logs: Iterable[Path], born: float | None) -> list[OpenFile]:
    """Return who writes one of *logs* and was started when its agent was."""
    files = set(_files(logs))
    return [
        holder
        for holder in processes.find_open_files(files)
        if holder.writes and _matches_start(_started_at(processes, holder.process), born)
    ]


class _LegacySnapshot:
    """One look at the default server and at who has which file open."""

    def __init__(self, context: RootContext, agents: Sequence[LegacyAgent]) -> None:
        self._processes = context.processes
        self._sessions = {session.name: session for session in context.legacy_server.sessions()}
        self._logs = {agent.id: set(_files(agent.logs)) for agent in agents}
        self._prompts = {agent.id: set(_files([agent.files.prompt])) for agent in agents}
        every = set().union(*self._logs.values(), *self._prompts.values())
        self._holders = context.processes.find_open_files(every)

    def standing(self, agent: LegacyAgent) -> LegacyStatus:
        """Return how one agent stands."""
        recorded = f"{agent.session!r} is recorded for it in {agent.task_id}"
        session = self._sessions.get(agent.session)
        if session is None:
            return self._without_session(agent, recorded, "there is no session of that name")
        seen = self._proofs(agent, session)
        if seen:
            panes = tuple(seen)
            return LegacyStatus(
                life=LegacyState.ALIVE,
                proofs=(recorded, *dict.fromkeys(seen.values())),
                session=attrs.evolve(session, panes=tuple(pane.pid for pane in panes)),
                roots=panes,
            )
        if _differs_in_any_timezone(session.created, agent.started_at):
            stranger = "the session of that name was made at another time: it is somebody else's"
            return self._without_session(agent, recorded, stranger)
        return LegacyStatus(
            life=LegacyState.UNKNOWN,
            proofs=(recorded,),
            why=f"there is a session {agent.session!r}, and only its name says that it is "
            f"{agent.id}'s",
        )

    def _proofs(self, agent: LegacyAgent, session: LegacySession) -> dict[Identity, str]:
        """
        Return which panes of a session are the agent's, and what proves it of each.

        A person who looks on may have split a window of it: his pane is not.
        """
        panes = [who for who in map(self._processes.identify, session.panes) if who is not None]
        proofs = {
            pane: self._use_of_files(agent, pane) or self._start_time_proof(agent, session, pane)
            for pane in panes
        }
        return {pane: proof for pane, proof in proofs.items() if proof}

    def _use_of_files(self, agent: LegacyAgent, pane: Identity) -> str:
        for holder in self._holders:
            if not _is_in(holder, pane):
                continue
            if holder.writes and holder.file in self._logs[agent.id]:
                return f"process {holder.process.pid} ({holder.name}) in it writes the agent's log"
            if holder.is_input and holder.file in self._prompts[agent.id]:
                return (
                    f"process {holder.process.pid} ({holder.name}) in it reads the agent's prompt"
                )
        return ""

    def _start_time_proof(self, agent: LegacyAgent, session: LegacySession, pane: Identity) -> str:
        births = (session.created, _started_at(self._processes, pane))
        if not all(_matches_start(birth, agent.started_at) for birth in births):
            return ""
        directory = self._processes.cwd_of(pane)
        if directory is None or not any(map(directory.is_relative_to, agent.places)):
            return ""
        return f"it was made when the agent was started, and works in {directory}"

    def _without_session(self, agent: LegacyAgent, recorded: str, absent: str) -> LegacyStatus:
        """Return how an agent stands that has no session: what writes its log is alive."""
        using = [
            holder
            for holder in self._holders
            if (holder.writes and holder.file in self._logs[agent.id])
            or (holder.is_input and holder.file in self._prompts[agent.id])
        ]
        if not using:
            proofs = [recorded, absent]
            if self._logs[agent.id]:
                proofs.append("nobody has its log open for writing")
            return LegacyStatus(life=LegacyState.GONE, proofs=tuple(proofs))
        born = [
            holder
            for holder in using
            if holder.writes
            and _matches_start(_started_at(self._processes, holder.process), agent.started_at)
        ]
        if not born:
            first = using[0]
            return LegacyStatus(
                life=LegacyState.UNKNOWN,
                proofs=(recorded,),
                why=f"process {first.process.pid} ({first.name}) has a file of {agent.id} open, "
                "and nothing else says that it is the agent's",
            )
        writer = f"process {born[0].process.pid} ({born[0].name})"
        return LegacyStatus(
            life=LegacyState.ALIVE,
            proofs=(
                f"{writer} writes the log recorded for it in {agent.task_id}",
                f"{writer} was started when the agent was",
            ),
            roots=roots_of(born),
        )


def roots_of(writers: Iterable[OpenFile]) -> tuple[Identity, ...]:
    """Return the writers of a log, and who leads their POSIX sessions, where he is above them."""
    found: dict[Identity, None] = {}
    for writer in writers:
        leaders = (who for who in writer.ancestors if who.pid == writer.sid)
        found.update(dict.fromkeys((*leaders, writer.process)))
    return tuple(found)


def _is_in(holder: OpenFile, pane: Identity) -> bool:
    return pane in (holder.process, *holder.ancestors) or holder.sid == pane.pid


def _files(paths: Iterable[Path]) -> Iterable[FileId]:
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield FileId(status.st_dev, status.st_ino)


# --- times --------------------------------------------------------------------------------------


def _started_at(processes: Processes, who: Identity) -> float:
    """Return when a process was started, by the time of day as it is now."""
    return time.time() - processes.age_s(who)


def _matches_start(began: float, recorded: float | None) -> bool:
    return recorded is not None and abs(began - recorded) <= _BIRTH_S


def _differs_in_any_timezone(began: float, recorded: float | None) -> bool:
    """Tell whether it is certain that the two are different moments, in whatever zone."""
    if recorded is None:
        return False
    apart = abs(began - recorded)
    from_a_zone = abs(apart - round(apart / _ZONE_S) * _ZONE_S)
    return apart > _BIRTH_S and (apart > _ZONES_S or from_a_zone > _BIRTH_S)
