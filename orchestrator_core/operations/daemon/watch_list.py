"""
The roster: every open saga of a root, and what is to be done about it.

A committed one is an agent that lives: its supervisor is held, by a descriptor
that tells of its death. One that is being deployed or unwound has an owner, who
holds the journal's lock; it is nobody's business but the owner's. A dead
supervisor, or a lock that nobody holds, is for recovery.

Looking never writes, so that no look is news of its own.
"""

from __future__ import annotations

import contextlib
import enum
import os
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.deployment.steps import SessionReceipt
from orchestrator_core.exceptions import CouldNotAsk, JournalDamaged, SagaNotFound
from orchestrator_core.model import deadlines
from orchestrator_core.saga import State
from orchestrator_core.saga.receipts import name_of
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.system import locks
from orchestrator_core.system.processes.exit_record import read_exit_record
from orchestrator_core.system.processes.identity import open_handle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator_core.saga import History


class Seen(enum.Enum):
    """What one look at a saga comes to."""

    GONE = "gone"  #: It is closed, or never was.
    ALIVE = "alive"  #: Its agent lives, and is watched.
    OWNED = "owned"  #: It is in somebody's hands.
    DUE = "due"  #: Its agent, or its owner, is dead.
    LEFT = "left"  #: For a sweep: it is stuck, or could not be looked at.


@attrs.frozen
class Watched:
    """A living agent, and the hold on its supervisor."""

    agent_id: str
    fd: int  #: Readable when the supervisor has ended.
    deadline: float | None  #: By the monotonic clock.
    exit_file: str | None
    hold: contextlib.ExitStack = attrs.field(repr=False, eq=False)


class Roster:
    """The open sagas of one root, as they were when last looked at."""

    def __init__(self, sagas: Path) -> None:
        self._journals = JournalStore(sagas)
        self._watched: dict[str, Watched] = {}
        self._by_fd: dict[int, Watched] = {}

    # --- looking ------------------------------------------------------------------------------

    def look(self, saga_id: str) -> Seen:
        """Look at one saga, and watch its agent if it lives."""
        try:
            history = self._journals.history(saga_id)
        except SagaNotFound:
            return self._forgotten(saga_id, Seen.GONE)
        except JournalDamaged:
            return self._forgotten(saga_id, Seen.DUE)
        if history.state is State.CLOSED and not self._is_open(saga_id):
            return self._forgotten(saga_id, Seen.GONE)
        if history.state is State.COMMITTED:
            return self._watch(history)
        if history.state is State.STUCK:
            return self._forgotten(saga_id, Seen.LEFT)
        return self._forgotten(saga_id, self._owned(saga_id))

    def unwatched(self) -> list[str]:
        """Return the open sagas whose agents are not watched: new ones, or about to end."""
        with os.scandir(self._journals.path) as entries:
            names = [entry.name for entry in entries]
        return sorted(
            name.removesuffix(SUFFIX)
            for name in names
            if name.endswith(SUFFIX)
            and not name.startswith(".")
            and name.removesuffix(SUFFIX) not in self._watched
        )

    def _watch(self, history: History) -> Seen:
        saga_id = history.saga_id
        if saga_id in self._watched:
            return _seen(self._watched[saga_id])
        frame = history.frame(name_of(SessionReceipt))
        if frame is None:
            return Seen.LEFT  # No agent's.
        receipt: SessionReceipt = frame.load()
        if receipt.supervisor is None:
            return Seen.DUE
        with contextlib.ExitStack() as stack:
            handle = stack.enter_context(open_handle(receipt.supervisor))
            if handle is None:
                return Seen.DUE
            deadline = deadlines.monotonic_deadline(history.labels)
            watched = Watched(saga_id, handle.fd, deadline, receipt.exit_file, stack.pop_all())
        self._watched[saga_id] = self._by_fd[watched.fd] = watched
        return _seen(watched)

    def _owned(self, saga_id: str) -> Seen:
        """Tell whether somebody alive holds a saga's lock."""
        # Read-only: a descriptor that could write would be news when it is closed.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self._journals.file(saga_id), flags)
        except FileNotFoundError:
            return Seen.GONE
        try:
            return Seen.DUE if locks.try_lock_shared(fd) else Seen.OWNED
        finally:
            os.close(fd)

    def _is_open(self, saga_id: str) -> bool:
        return os.path.lexists(self._journals.file(saga_id))

    # --- watching -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._watched)

    @property
    def fds(self) -> Iterator[int]:
        """The descriptors that tell of a death when they are readable."""
        return iter(self._by_fd)

    def died(self, fd: int) -> str | None:
        """Return whose supervisor *fd* tells of, and watch it no more; None if nobody's."""
        watched = self._by_fd.get(fd)
        if watched is None:
            return None
        self._forgotten(watched.agent_id, Seen.DUE)
        return watched.agent_id

    def next_deadline(self) -> float | None:
        """Return when, by the monotonic clock, the first deadline passes."""
        return min((one.deadline for one in self._watched.values() if one.deadline), default=None)

    def overdue(self, now: float) -> list[str]:
        """Return the agents whose deadline has passed, each once."""
        found = [one for one in self._watched.values() if one.deadline and one.deadline <= now]
        for one in found:
            self._watched[one.agent_id] = self._by_fd[one.fd] = attrs.evolve(one, deadline=None)
        return [one.agent_id for one in found]

    def close(self) -> None:
        """Watch nobody any more."""
        for saga_id in list(self._watched):
            self._forgotten(saga_id, Seen.GONE)

    def _forgotten(self, saga_id: str, seen: Seen) -> Seen:
        watched = self._watched.pop(saga_id, None)
        if watched is not None:
            del self._by_fd[watched.fd]
            watched.hold.close()
        return seen


def _seen(watched: Watched) -> Seen:
    """Say what a living supervisor has to say: it may have called us for its relief."""
    try:
        witnessed = read_exit_record(watched.exit_file)
    except CouldNotAsk:
        return Seen.ALIVE  # Who gets no relief helps itself.
    return Seen.DUE if witnessed is not None and witnessed.contained else Seen.ALIVE
