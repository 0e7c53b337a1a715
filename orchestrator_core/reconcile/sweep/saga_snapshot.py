"""
The open journals of a root, and what the kernel says to what they say.

Most agents are well, and are to cost next to nothing: a journal that says
"committed", whose supervisor is among the processes that were seen and whose
deadline is to come, is read once and that is all. Every other one is suspicious.
It is read again, under a lock that any owner would hold, and only what it says
then counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.steps import SessionReceipt
from orchestrator_core.exceptions import (
    CouldNotAsk,
    JournalDamaged,
    OrchestratorError,
    SagaNotFound,
)
from orchestrator_core.model import deadlines
from orchestrator_core.saga import State
from orchestrator_core.system.processes.exit_record import read_exit_record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator_core.reconcile.legacy.session_step import LegacySessionReceipt
    from orchestrator_core.saga import History
    from orchestrator_core.saga.open_journals import Opened
    from orchestrator_core.system.processes.protocol import ExitRecord, Identity, Processes


@attrs.frozen(kw_only=True)
class Seen:
    """One open saga."""

    saga_id: str
    history: History | None = None  #: None if it is damaged, or could not be read.
    receipt: SessionReceipt | LegacySessionReceipt | None = None  #: Of its session, if it has one.
    damage: str = ""  #: Why its journal cannot be used.
    unknown: str = ""  #: What could not be asked of it, and why.
    owned: bool = False  #: Somebody alive is at it, deploying or ending it.
    dead: bool = False  #: It is committed, and its supervisor is not alive.
    witnessed: ExitRecord | None = None  #: How it ended, if its supervisor saw that.
    late: bool = False  #: Its deadline has passed.
    wrote_at: float | None = None  #: When its log last grew, by the time of day.
    age_s: float | None = None  #: Of its supervisor, by a clock that nobody sets.

    @property
    def labels(self) -> Mapping[str, Any]:
        """What its journal is labelled with."""
        return {} if self.history is None else self.history.labels

    @property
    def agent_id(self) -> str:
        """The agent that it accounts for, which an adopting saga is not named after."""
        return str(self.labels.get("agent_id") or self.saga_id)

    @property
    def task_id(self) -> str | None:
        """Its task, if its journal can tell."""
        task_id = self.labels.get("task_id")
        return None if task_id is None else str(task_id)

    @property
    def session(self) -> SessionReceipt | None:
        """The receipt of its session on our own server."""
        return self.receipt if isinstance(self.receipt, SessionReceipt) else None

    @property
    def lives(self) -> bool:
        """Whether its agent is alive, for all that is known."""
        committed = self.history is not None and self.history.state is State.COMMITTED
        return committed and not (self.owned or self.dead or self.unknown)


def read(
    journals: Opened,
    processes: Processes,
    running: Collection[Identity] | None,
    sessions: Collection[str] | None,
) -> dict[str, Seen]:
    """
    Read all open journals, by saga id.

    *running* are the processes that were seen alive a moment ago; None if they could
    not be asked: then nothing is said about who is alive. *sessions* are the names of
    those that were seen. An agent without one is being seen off, perhaps: its session
    goes when its supervisor becomes the unwinder.

    Raises:
        StorageError: They cannot be listed.
    """
    known = (_seen(journals, processes, running, saga_id) for saga_id in journals.ids())
    return {
        seen.saga_id: seen if _has_session(seen, sessions) else _with_witness(seen)
        for seen in known
        if seen is not None
    }


def _has_session(seen: Seen, sessions: Collection[str] | None) -> bool:
    return sessions is None or seen.session is None or seen.session.session in sessions


def _with_witness(seen: Seen) -> Seen:
    assert seen.session is not None  # noqa: S101 - it has a session, or did
    try:
        return attrs.evolve(seen, witnessed=read_exit_record(seen.session.exit_file))
    except CouldNotAsk as error:
        return attrs.evolve(seen, unknown=str(error))


def _seen(
    journals: Opened,
    processes: Processes,
    running: Collection[Identity] | None,
    saga_id: str,
) -> Seen | None:
    """Return what is to be known of one saga; None if it has closed."""
    try:
        try:
            history = journals.history(saga_id)
            if _is_well(_of(history), running):
                return _of(history, wrote_at=_wrote_at(history))
        except JournalDamaged:
            pass
        return _suspicious(journals, processes, saga_id, can_ask=running is not None)
    except SagaNotFound:
        return None
    except JournalDamaged as error:
        return Seen(saga_id=saga_id, damage=str(error))
    except OrchestratorError as error:
        return Seen(saga_id=saga_id, unknown=f"journal of {saga_id}: {error}")


def _of(history: History, *, wrote_at: float | None = None) -> Seen:
    frame = history.frame("spawn_tmux") or history.frame("legacy_session")
    receipt: SessionReceipt | LegacySessionReceipt | None = None if frame is None else frame.load()
    return Seen(saga_id=history.saga_id, history=history, receipt=receipt, wrote_at=wrote_at)


def _is_well(seen: Seen, running: Collection[Identity] | None) -> bool:
    assert seen.history is not None  # noqa: S101 - it was just made of one
    if seen.history.state is not State.COMMITTED or deadlines.is_expired(seen.labels):
        return False
    if seen.receipt is None or running is None:
        return True
    return seen.receipt.supervisor in running


def _suspicious(
    journals: Opened, processes: Processes, saga_id: str, *, can_ask: bool
) -> Seen | None:
    history = journals.at_rest(saga_id)
    if history is None:
        return Seen(saga_id=saga_id, history=_if_readable(journals, saga_id), owned=True)
    seen = _of(history)
    if history.state is not State.COMMITTED:
        return seen
    seen = attrs.evolve(seen, late=deadlines.is_expired(seen.labels), wrote_at=_wrote_at(history))
    if seen.receipt is None or not can_ask or _is_alive(seen.receipt, processes):
        return seen
    return attrs.evolve(seen, dead=True, witnessed=read_exit_record(seen.receipt.exit_file))


def _is_alive(receipt: SessionReceipt | LegacySessionReceipt, processes: Processes) -> bool:
    return receipt.supervisor is not None and processes.is_alive(receipt.supervisor)


def _if_readable(journals: Opened, saga_id: str) -> History | None:
    """Read a journal that somebody is writing, for its labels."""
    try:
        return journals.history(saga_id)
    except JournalDamaged:
        return None


def _wrote_at(history: History) -> float | None:
    frame = history.frame("tee_log")
    if frame is None:
        return None
    try:
        return os.stat(frame.receipt["log"]).st_mtime  # noqa: PTH116 - for each of many
    except OSError:
        return None
