"""
Whose life is over, why, and whether we are the one to say so.

An agent is dead when its supervisor is, which outlives it to tell of it, or when that
says so itself. How it ended is what was witnessed; and who is inside of what
ends, or below it, is not the one to end it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import JournalDamaged, NotFound, SagaNotFound
from orchestrator_core.model.outcome import decide_end_reason, ends_children
from orchestrator_core.reconcile.legacy.session_step import LegacySessionReceipt
from orchestrator_core.registry.operations import descendants_of, is_finished
from orchestrator_core.saga import State, Unwind
from orchestrator_core.system import durable
from orchestrator_core.system.processes.exit_record import read_exit_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.steps import SessionReceipt
    from orchestrator_core.registry.operations import Document
    from orchestrator_core.saga import History, Sagas
    from orchestrator_core.system.processes.protocol import ExitRecord


@attrs.frozen
class Liveness:
    """Looks at the agents of one root, and changes nothing."""

    context: RootContext
    sagas: Sagas
    _cache: dict[str, tuple[durable.Fingerprint, Document]] = attrs.field(factory=dict, repr=False)

    def is_dead(self, history: History) -> bool:
        """Whether the agent is dead: its supervisor says so, or is dead, and outlived it."""
        supervisor = session_receipt(history).supervisor
        if supervisor is None or not self.context.processes.is_alive(supervisor):
            return True
        exited = self.exit_record(history)
        return exited is not None and exited.contained

    def unwind_reason(self, history: History) -> Unwind:
        """Say why a saga that is to be unwound is."""
        if history.state is State.COMMITTED:
            return self.end_reason(history)
        return history.why or Unwind.recovery("its owner died before the commit")

    def end_reason(self, history: History) -> Unwind:
        """Say how a dead agent has ended."""
        recorded = None
        if (
            isinstance(session_receipt(history), LegacySessionReceipt)
            and history.end_request is None
        ):
            from orchestrator_core.reconcile.legacy.adoption import recorded_end  # noqa: PLC0415 - seldom needed

            recorded = recorded_end(self.context, history)
        return recorded or decide_end_reason(history, self.exit_record(history))

    def exit_record(self, history: History) -> ExitRecord | None:
        """Return how the agent has ended, if its supervisor has seen it."""
        return read_exit_record(session_receipt(history).exit_file)

    def includes_self(self, history: History, why: Unwind | None = None) -> bool:
        """Tell whether to end an agent is to end us, who are in it, or below it."""
        is_inside = self.context.processes.includes_self
        if is_inside(session_receipt(history).claim):
            return True
        if why is not None and not ends_children(why):
            return False
        return any(is_inside(session_receipt(below).claim) for below in self._descendants(history))

    def _descendants(self, history: History) -> Iterator[History]:
        """Yield the pasts of the agents that end with an agent."""
        document = self._peek(task_id_of(history))
        for record in descendants_of(document, history.saga_id):
            if not is_finished(record):
                with contextlib.suppress(SagaNotFound, JournalDamaged):
                    yield self.sagas.history(record["id"])

    def _peek(self, task_id: str) -> Document:
        """
        Return a task's registry, as it was a moment ago at the latest.

        Who is below us was so before; and many are asked about in one task.
        """
        registry = self.context.task_registry(task_id)
        edition, known = durable.fingerprint_at(registry.path), self._cache.get(task_id)
        if known is not None and known[0] == edition:
            return known[1]
        document = registry.read_or_none() or {}
        self._cache.clear()
        if edition is not None:
            self._cache[task_id] = edition, document
        return document


def task_id_of(history: History) -> str:
    """Return the id of an agent's task; a journal that was damaged may have lost its labels."""
    frame = history.frame("accept_children")
    task_id = history.labels.get("task_id") or (frame and frame.load().task_id)
    return str(task_id)


def session_receipt(history: History) -> SessionReceipt | LegacySessionReceipt:
    """
    Return the receipt of an agent's session, ours or the old system's.

    Raises:
        NotFound: The saga is no agent's.
    """
    frame = history.frame("spawn_tmux") or history.frame("legacy_session")
    if frame is None:
        raise NotFound(f"{history.saga_id!r} is no agent")
    receipt: SessionReceipt | LegacySessionReceipt = frame.load()
    return receipt
