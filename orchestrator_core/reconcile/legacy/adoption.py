"""
Adopt an old agent: give it the journal that it never had.

What the journal says that the agent holds is planned from its id, as for any
agent, but for its session, whose receipt keeps the proofs. Nothing of the old
system's is changed by that; the agent lives on as it did, until it is ended, and
a crash in between leaves an agent that has a journal, and nothing else.

One whose record has ended already, and that still holds something, is adopted as
one that is being unwound, with the end that was recorded.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.launch_plan import unwinder_argv, unwinder_env
from orchestrator_core.deployment.receipt_plan import plan_receipts
from orchestrator_core.deployment.steps import PromptReceipt
from orchestrator_core.exceptions import CouldNotAsk, NotFound, RegistryError, SagaExists
from orchestrator_core.model import ids
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import ENDED_BY, is_legacy, legacy_agent, report_of
from orchestrator_core.reconcile.legacy.proof import LegacyState, LegacyStatus, inspect_all
from orchestrator_core.reconcile.legacy.session_step import LegacySessionReceipt
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.saga import Unwind
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.saga import History, Sagas


def adopt_if_needed(
    context: RootContext, sagas: Sagas, agent_id: str, *, why: Unwind | None = None
) -> EndReport | None:
    """
    See that an old agent has a journal, or return how it ended if it holds nothing more.

    Raises:
        NotFound: The old system has recorded no such agent.
        CouldNotAsk: Whether it lives, or what is its, is unknown. Nothing was changed.
    """
    agent = find(context, agent_id)
    standing = inspect_all(context, [agent])[agent.id]
    if standing.life is LegacyState.UNKNOWN:
        raise CouldNotAsk(
            f"agent {agent.id!r}, recorded by the old system, was left alone: {standing.why}",
            hint=_how_to_end_by_hand(agent),
        )
    if agent.is_active:
        adopt(context, sagas, agent, standing)
    elif standing.life is LegacyState.ALIVE or agent.files.present or _is_entered(context, agent):
        adopt(context, sagas, agent, standing, why=_as_recorded(agent, why))
    else:
        return report_of(agent)
    return None


def find(context: RootContext, agent_id: str) -> LegacyAgent:
    """
    Return what the registries say of an old agent.

    Raises:
        NotFound: None of them has such an agent, or it is not an old one.
    """
    check_id("agent", agent_id)
    for task_id in context.layout.task_ids():
        document = _document(context, task_id)
        record = find_agent(document, agent_id)
        if record is not None and is_legacy(record):
            found = legacy_agent(context, document, task_id, record)
            if found is not None:
                return found
            raise NotFound(
                f"agent {agent_id!r} was recorded with the session {record.get('tmux_session')!r}, "
                "which tmux cannot have had",
                hint=f"what does `tmux list-sessions` have of it? its task is {task_id}",
            )
    raise NotFound(f"there is no agent {agent_id!r}")


def _document(context: RootContext, task_id: str) -> dict[str, Any]:
    registry = context.task_registry(task_id)
    document = registry.read_or_none()
    if document is not None:
        return document
    try:
        return registry.read()
    except (RegistryError, NotFound):
        return {}  # It strands no agent of another task.


def adopt(
    context: RootContext,
    sagas: Sagas,
    agent: LegacyAgent,
    standing: LegacyStatus,
    *,
    why: Unwind | None = None,
) -> None:
    """Make the journal of an old agent, unless somebody else just has."""
    labels = {
        "task_id": agent.task_id,
        "type": str(agent.record.get("type", "")),
        "parent": agent.parent,
        "adopted": standing.life.value,
        "deadline_at": None,
    }
    try:
        with sagas.create_committed(
            agent.id, receipts_of(context, agent, standing), labels=labels, why=why
        ):
            pass  # Whoever ends it takes it up.
    except SagaExists:
        return


def receipts_of(context: RootContext, agent: LegacyAgent, standing: LegacyStatus) -> dict[str, Any]:
    """Return what an old agent holds: by its names, and by what a look has proved."""
    entries = (context.global_registry.read_or_none() or {}).get("agents", {})
    entry = entries.get(agent.id, {"task_id": agent.task_id})
    values = {"task_id": agent.task_id, "record": dict(agent.record), "entry": entry}
    receipts = plan_receipts(context, agent.id, values)
    receipts["spawn_tmux"] = _session_of(context, agent, standing)
    receipts["write_prompt"] = PromptReceipt(str(agent.files.prompt))
    receipts["tee_log"] = attrs.evolve(
        receipts["tee_log"],
        log=str(agent.files.log),
        deploy_log=str(agent.files.deploy_log),
        progress=str(agent.files.progress),
        findings=str(agent.files.findings),
    )
    return receipts


def _session_of(
    context: RootContext, agent: LegacyAgent, standing: LegacyStatus
) -> LegacySessionReceipt:
    return LegacySessionReceipt(
        session=agent.session,
        cookie=ids.process_cookie(context.root_id, agent.id),
        seen=standing.session,
        roots=standing.roots,
        logs=tuple(map(str, agent.logs)),
        born=agent.started_at,
        proofs=standing.proofs,
    )


def _is_entered(context: RootContext, agent: LegacyAgent) -> bool:
    """Tell whether an agent that has ended is among the living of the global registry."""
    return agent.id in (context.global_registry.read_or_none() or {}).get("agents", {})


def _as_recorded(agent: LegacyAgent, why: Unwind | None) -> Unwind:
    asked = {} if why is None else why.detail
    return Unwind.terminal(
        report_of(agent).reason, **{**asked, "status": agent.status, "by": ENDED_BY}
    )


def recorded_end(context: RootContext, history: History) -> Unwind | None:
    """Return the end that the old system has recorded for an agent since it was adopted."""
    document = context.task_registry(str(history.labels.get("task_id"))).read_or_none() or {}
    record = find_agent(document, history.saga_id)
    if record is None or is_active(record.get("status")):
        return None
    agent = legacy_agent(context, document, str(history.labels.get("task_id")), record)
    return None if agent is None else _as_recorded(agent, None)


def _how_to_end_by_hand(agent: LegacyAgent) -> str:
    return (
        f"if that session is the agent's, end it: tmux kill-session -t '={agent.session}'; "
        "if it is yours, rename it; then try again"
    )


# --- an end from inside -------------------------------------------------------------------------


def spawn_unwinder(context: RootContext, agent_id: str) -> None:
    """
    Let a process that is no part of an old agent end it.

    There is no supervisor that could become the unwinder. So one is started that
    leaves the agent's process tree and its POSIX session at once.
    """
    environment = unwinder_env()
    subprocess.run(  # noqa: S603 - an argv of ours; the shell only starts it, and leaves
        [
            *("/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh"),
            *unwinder_argv(context.layout.root, agent_id),
        ],
        cwd="/",
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
