"""
Adopt leftovers: create a saga for what carries this root's marks and is in no saga.

The saga's receipts are planned from the agent's id, as for a deployment, or taken from the
agent's closed journal. So the saga holds everything of the agent, whichever part was found.
It begins as one that is being unwound, so recovery finishes it after a crash at any instant.

A closed saga keeps its id and its end. The saga for what an agent with a closed saga left
is called ``<agent id>_2``; its labels name the agent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.receipt_plan import derive_receipts
from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import SagaBusy, SagaError, SagaExists, UnknownStep
from orchestrator_core.model import ids
from orchestrator_core.model.outcome import terminal_reason
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.saga import State, Unwind

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.saga import History, Saga, Sagas

ENDED_BY = "sweep"


def adopt(
    terminator: Terminator,
    agent_id: str,
    *,
    task_id: str | None,
    what: str,
    cgroup: str | None = None,
) -> Saga:
    """
    Return a saga, owned by this process and ready to unwind, that holds all of an agent.

    *what* names the things that were found, *cgroup* is the one among them.

    Raises:
        SagaBusy: Another process ends the agent, or has adopted it.
        OutOfSight: The agent lives in another pid or time namespace.
        StorageError: The journal could not be written; nothing was touched.
    """
    context, sagas = terminator.context, terminator.sagas
    closed = _closed_history(sagas, agent_id)
    if closed is not None and closed.labels.get("task_id") is not None:
        task_id = str(closed.labels["task_id"])
    receipts = _receipts(context, agent_id, task_id, closed, cgroup)
    # Raises if the agent lives in another namespace, before anything is touched.
    context.processes.includes_self(receipts["spawn_tmux"].selector)
    why = _reason(context, agent_id, task_id, closed, f"swept up: {what}")
    labels = {"task_id": task_id, "agent_id": agent_id, "adopted": what}
    busy = SagaBusy(f"another sweep has adopted what {agent_id!r} has left")
    for number in itertools.count(1):
        saga_id = agent_id if number == 1 else f"{agent_id}_{number}"
        if os.path.lexists(sagas.journals.file(saga_id)):
            raise busy
        if not os.path.lexists(sagas.journals.closed_file(saga_id)):
            break
    try:
        return sagas.create_committed(saga_id, receipts, labels=labels, why=why)
    except SagaExists:
        raise busy from None


def _closed_history(sagas: Sagas, agent_id: str) -> History | None:
    """Return the history of the agent's own saga, which must be closed; None if it has none."""
    try:
        history = sagas.history(agent_id)
    except SagaError:
        return None
    if history.state is not State.CLOSED:
        raise SagaBusy(f"by now a saga accounts for {agent_id!r}")
    return history


# --- receipts -----------------------------------------------------------------------------------


def _receipts(
    context: RootContext,
    agent_id: str,
    task_id: str | None,
    closed: History | None,
    cgroup: str | None,
) -> dict[str, Any]:
    if task_id is not None:
        receipts = derive_receipts(context, agent_id, {"task_id": task_id})
    else:
        receipts = {"spawn_tmux": _session_by_name(context, agent_id)}
    for frame in () if closed is None else closed.stack:
        with contextlib.suppress(UnknownStep):  # This process may know fewer steps.
            receipts[frame.name] = frame.load()
    session = receipts["spawn_tmux"]
    if isinstance(session, SessionReceipt):
        receipts["spawn_tmux"] = _session_as_found(session, cgroup)
    return receipts


def _session_by_name(context: RootContext, agent_id: str) -> SessionReceipt:
    """Return a receipt without a task: only a session and processes were found, by their marks."""
    return SessionReceipt(
        session=ids.session_name(agent_id),
        cookie=ids.process_cookie(context.root_id, agent_id),
        exit_file=None,
        cgroup=context.processes.cgroup_path(ids.cgroup_name(context.root_id, agent_id)),
    )


def _session_as_found(session: SessionReceipt, cgroup: str | None) -> SessionReceipt:
    """Return the receipt with the cgroup that was found, and an exit file only if it can exist."""
    exit_file = session.exit_file
    if exit_file is not None and not Path(exit_file).parent.is_dir():
        exit_file = None  # A missing run directory does not prove that nothing was started.
    return attrs.evolve(session, exit_file=exit_file, cgroup=cgroup or session.cgroup)


# --- the reason ---------------------------------------------------------------------------------


def _reason(
    context: RootContext, agent_id: str, task_id: str | None, closed: History | None, message: str
) -> Unwind:
    """Return the reason to unwind: the agent's earlier end, if it has one."""
    earlier = None if closed is None else closed.why
    if earlier is not None and earlier.removes_everything:
        return Unwind.rollback(message, agent_id=agent_id, by=ENDED_BY)
    detail = _record(context, agent_id, task_id) if earlier is None else earlier.detail
    status = _FINAL.get(str(detail.get("status")), Status.ERROR)
    # An earlier end has ended or spared the agent's children.
    why = terminal_reason(status, message, by=ENDED_BY, cascade=earlier is None)
    return attrs.evolve(why, detail={**why.detail, "agent_id": agent_id})


_FINAL = {status.value: status for status in Status if not is_active(status.value)}


def _record(context: RootContext, agent_id: str, task_id: str | None) -> dict[str, Any]:
    document = None if task_id is None else context.task_registry(task_id).read_or_none()
    return find_agent(document or {}, agent_id) or {}
