"""
Adopting: a saga for what is ours, and that no saga accounts for.

Its receipts are those that the agent's id leads to, planned as for a deployment,
or as its closed journal has them. So it takes everything of the agent at once,
whatever of it was found; and since it begins as one that is being unwound, a crash
at any instant leaves what recovery finishes.

An agent that has a closed saga keeps it, and its end, for ever: the saga that
adopts what was left of it is called ``<agent id>_2``, and tells of the same agent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.steps import SessionReceipt
from orchestrator_core.exceptions import NotFound, SagaBusy, SagaError, SagaExists, UnknownStep
from orchestrator_core.model import ids
from orchestrator_core.model.outcome import terminal_reason
from orchestrator_core.model.status import Status, is_active
from orchestrator_core.reconcile.rebuild import derive_receipts
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.saga import State, Unwind

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.saga import History, Saga, Sagas

BY = "sweep"  #: Who ends what was adopted.


def adopt(
    terminator: Terminator,
    agent_id: str,
    *,
    task_id: str | None,
    what: str,
    cgroup: str | None = None,
) -> Saga:
    """
    Return a saga, ours and about to be unwound, that holds all that an agent's id leads to.

    Raises:
        SagaBusy: Somebody else is at it.
        StorageError: It could not be written down, so nothing is touched.
    """
    context, sagas = terminator.context, terminator.sagas
    past = _past(sagas, agent_id)
    task_id = _task_of(past) or task_id
    receipts = _receipts(context, agent_id, task_id, past, cgroup)
    why = _why(context, agent_id, task_id, past, what)
    labels = {"task_id": task_id, "agent_id": agent_id, "adopted": what}
    saga_id = _free_id(sagas, agent_id)
    try:
        return sagas.create_committed(saga_id, receipts, labels=labels, why=why)
    except SagaExists:
        raise SagaBusy(f"somebody else is sweeping up what {agent_id!r} has left") from None


def _past(sagas: Sagas, agent_id: str) -> History | None:
    """Return what the agent's own journal tells, if there is one."""
    try:
        history = sagas.history(agent_id)
    except SagaError:
        return None
    if history.state is not State.CLOSED:
        raise SagaBusy(f"a saga accounts for {agent_id!r} after all")
    return history


def _task_of(past: History | None) -> str | None:
    task_id = None if past is None else past.labels.get("task_id")
    return None if task_id is None else str(task_id)


def _free_id(sagas: Sagas, agent_id: str) -> str:
    number = 1
    while True:
        saga_id = agent_id if number == 1 else f"{agent_id}_{number}"
        if os.path.lexists(sagas.journals.file(saga_id)):
            raise SagaBusy(f"somebody else is sweeping up what {agent_id!r} has left")
        if not os.path.lexists(sagas.journals.closed_file(saga_id)):
            return saga_id
        number += 1


# --- what it holds ------------------------------------------------------------------------------


def _receipts(
    context: RootContext,
    agent_id: str,
    task_id: str | None,
    past: History | None,
    cgroup: str | None,
) -> dict[str, Any]:
    if task_id is None:
        # Nothing leads to a task: there are a session and processes, and their marks.
        planned: dict[str, Any] = {"spawn_tmux": _session_of(context, agent_id)}
    else:
        planned = derive_receipts(context, agent_id, {"task_id": task_id})
    planned |= _kept(past)
    session = planned["spawn_tmux"]
    if isinstance(session, SessionReceipt):
        planned["spawn_tmux"] = _as_found(session, cgroup)
    return planned


def _session_of(context: RootContext, agent_id: str) -> SessionReceipt:
    return SessionReceipt(
        session=ids.session_name(agent_id),
        cookie=ids.process_cookie(context.root_id, agent_id),
        exit_file=None,
        cgroup=context.processes.cgroup_path(ids.cgroup_name(context.root_id, agent_id)),
    )


def _kept(past: History | None) -> dict[str, Any]:
    """Return the receipts of the closed journal, as far as they are known here."""
    kept = {}
    for frame in () if past is None else past.stack:
        try:
            kept[frame.name] = frame.load()
        except UnknownStep:
            continue
    return kept


def _as_found(session: SessionReceipt, cgroup: str | None) -> SessionReceipt:
    """Return the receipt, with the cgroup that is there, and no witness that is not."""
    run_is_there = session.exit_file is not None and Path(session.exit_file).parent.is_dir()
    # A run directory that was removed with its agent says nothing of what it started.
    exit_file = session.exit_file if run_is_there else None
    return attrs.evolve(session, exit_file=exit_file, cgroup=cgroup or session.cgroup)


# --- why it ends --------------------------------------------------------------------------------


def _why(
    context: RootContext, agent_id: str, task_id: str | None, past: History | None, what: str
) -> Unwind:
    """Return why what was left is given back: for the end that its agent has had, if it had one."""
    message = f"swept up: {what}"
    if past is not None and past.why is not None:
        if past.why.removes_everything:
            return Unwind.rollback(message, agent_id=agent_id, by=BY)
        # Its children ended with it, or were spared: that is settled.
        why = _terminal(message, agent_id, str(past.why.detail.get("status")))
        return attrs.evolve(why, detail={**why.detail, "cascade": False})
    return _terminal(message, agent_id, _recorded(context, agent_id, task_id))


def _recorded(context: RootContext, agent_id: str, task_id: str | None) -> str:
    """Return the status that an agent's record has, if that is one of an end."""
    if task_id is None:
        return Status.ERROR.value
    try:
        record = find_agent(context.task_registry(task_id).read_or_none() or {}, agent_id) or {}
    except NotFound:
        record = {}
    return Status.ERROR.value if is_active(record.get("status")) else str(record["status"])


def _terminal(message: str, agent_id: str, status: str) -> Unwind:
    known = status if status in {each.value for each in Status} else Status.ERROR.value
    why = terminal_reason(Status(known), message, by=BY)
    return attrs.evolve(why, detail={**why.detail, "agent_id": agent_id})
