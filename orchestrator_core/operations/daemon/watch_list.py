"""
The watch list: every live agent of a root, and the check of each open saga.

- A committed saga is a live agent. The list holds a descriptor that is readable when the
  agent's supervisor exits.
- A saga that is being deployed or unwound has an owner with the journal's lock, and is left
  to the owner.
- A saga with a dead supervisor, or without an owner, needs recovery.

A check never writes, so no check causes a file event.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import CouldNotAsk, JournalDamaged, OutOfSight, SagaNotFound
from orchestrator_core.model.spec import monotonic_deadline
from orchestrator_core.saga import State
from orchestrator_core.saga.receipts import name_of
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system.processes.exit_record import read_exit_record
from orchestrator_core.system.processes.identity import open_handle

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.saga import History


class SagaCheck(enum.Enum):
    """The result of one check of a saga."""

    GONE = "gone"  #: The saga is closed, or never existed.
    ALIVE = "alive"  #: The agent is alive, and watched.
    OWNED = "owned"  #: A live process owns the saga.
    NEEDS_RECOVERY = "needs recovery"  #: The agent, or the owner, is dead.
    DEFERRED = "deferred"  #: For a sweep: the saga is STUCK, or the check failed.


@attrs.frozen
class WatchedAgent:
    """A live agent, and the handle on its supervisor."""

    agent_id: str
    fd: int  #: Readable when the supervisor has exited.
    deadline: float | None  #: By the monotonic clock.
    exit_file: str | None
    handle: contextlib.ExitStack = attrs.field(repr=False, eq=False)


def saga_of_journal(file_name: str) -> str | None:
    """Return the saga of an open journal's file name; None if it is no such name."""
    is_journal = file_name.endswith(SUFFIX) and not file_name.startswith(".")
    return file_name.removesuffix(SUFFIX) if is_journal else None


class WatchList:
    """The live agents of one root, as of the last check of each."""

    def __init__(self, sagas: Path) -> None:
        self._journals = JournalStore(sagas)
        self._watched: dict[str, WatchedAgent] = {}

    # --- checks -------------------------------------------------------------------------------

    def check(self, saga_id: str) -> SagaCheck:
        """Check one saga, and watch its agent if the agent is alive."""
        try:
            history = self._journals.history(saga_id)
            # A closed saga whose journal is still among the open ones awaits its last rename.
            is_owned = (
                history.state not in (State.COMMITTED, State.STUCK)
                and self._journals.history_if_unowned(saga_id) is None
            )
        except SagaNotFound:
            return self._unwatch(saga_id, SagaCheck.GONE)
        except JournalDamaged:
            return self._unwatch(saga_id, SagaCheck.NEEDS_RECOVERY)
        if history.state is State.COMMITTED:
            return self._watch(history)
        if history.state is State.STUCK:
            return self._unwatch(saga_id, SagaCheck.DEFERRED)
        return self._unwatch(saga_id, SagaCheck.OWNED if is_owned else SagaCheck.NEEDS_RECOVERY)

    def unwatched(self) -> list[str]:
        """Return the open sagas whose agents are not watched: new agents, or ended ones."""
        with os.scandir(self._journals.path) as entries:
            found = {saga_of_journal(entry.name) for entry in entries}
        return sorted(saga_id for saga_id in found - self._watched.keys() if saga_id is not None)

    def _watch(self, history: History) -> SagaCheck:
        saga_id = history.saga_id
        if saga_id in self._watched:
            return _state(self._watched[saga_id])
        frame = history.frame(name_of(SessionReceipt))
        if frame is None:
            return SagaCheck.DEFERRED  # The saga belongs to no agent.
        receipt: SessionReceipt = frame.load()
        if receipt.supervisor is None:
            return SagaCheck.NEEDS_RECOVERY
        with contextlib.ExitStack() as stack:
            try:
                handle = stack.enter_context(open_handle(receipt.supervisor))
            except OutOfSight:
                return SagaCheck.DEFERRED
            if handle is None:
                return SagaCheck.NEEDS_RECOVERY
            deadline = monotonic_deadline(history.labels)
            watched = WatchedAgent(saga_id, handle.fd, deadline, receipt.exit_file, stack.pop_all())
        self._watched[saga_id] = watched
        return _state(watched)

    # --- watched agents -----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def fds(self) -> dict[int, str]:
        """The descriptors that are readable when a supervisor has exited, and the agents."""
        return {one.fd: one.agent_id for one in self._watched.values()}

    def exited_agents(self, readable: set[int]) -> list[str]:
        """Return the agents whose supervisors' descriptors are *readable*, and unwatch them."""
        exited = [agent_id for fd, agent_id in self.fds.items() if fd in readable]
        for agent_id in exited:
            self._unwatch(agent_id, SagaCheck.NEEDS_RECOVERY)
        return exited

    def next_deadline(self) -> float:
        """Return the first deadline, by the monotonic clock; infinity if there is none."""
        times = (one.deadline for one in self._watched.values() if one.deadline)
        return min(times, default=math.inf)

    def overdue(self, now: float) -> list[str]:
        """Return the agents whose deadline has passed, each once."""
        found = [one for one in self._watched.values() if one.deadline and one.deadline <= now]
        for one in found:
            self._watched[one.agent_id] = attrs.evolve(one, deadline=None)
        return [one.agent_id for one in found]

    def close(self) -> None:
        """Unwatch all agents."""
        for saga_id in list(self._watched):
            self._unwatch(saga_id, SagaCheck.GONE)

    def _unwatch(self, saga_id: str, result: SagaCheck) -> SagaCheck:
        watched = self._watched.pop(saga_id, None)
        if watched is not None:
            watched.handle.close()
        return result


def _state(watched: WatchedAgent) -> SagaCheck:
    """Return whether a live supervisor has offered its handoff: the sweeper then unwinds."""
    try:
        exit_record = read_exit_record(watched.exit_file)
    except CouldNotAsk:
        return SagaCheck.ALIVE  # Without a handoff, the supervisor unwinds by itself.
    if exit_record is not None and exit_record.contained:
        return SagaCheck.NEEDS_RECOVERY
    return SagaCheck.ALIVE
