"""
The legacy system as the deployment's predecessor: its agents are adopted and then ended.

Adoption creates the journal that a legacy agent never had. The receipts in it are planned
from the agent's id, as for any agent; the receipt of the session has the proofs. Adoption
changes nothing that the legacy system wrote, and the agent runs on until it is ended. A
crash meanwhile leaves an agent with a journal, and nothing else.

An agent whose record shows an end, and that still holds something, is adopted as one that
is being unwound, with the recorded end.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.documents import unwinder_argv, unwinder_env
from orchestrator_core.deployment.predecessor import Predecessor
from orchestrator_core.deployment.receipt_plan import plan_receipts
from orchestrator_core.deployment.steps.session import PromptReceipt
from orchestrator_core.exceptions import CouldNotAsk, InvalidId, NotFound, RegistryError, SagaExists
from orchestrator_core.model import ids
from orchestrator_core.model.status import is_active
from orchestrator_core.reconcile.legacy.agent import ENDED_BY, is_legacy, legacy_agent, report_of
from orchestrator_core.reconcile.legacy.proof import LegacyState, LegacyStatus, inspect_all
from orchestrator_core.reconcile.legacy.session_step import EndLegacySession, LegacySessionReceipt
from orchestrator_core.reconcile.legacy.unlisted import signs_of_life
from orchestrator_core.registry.operations import find_agent
from orchestrator_core.saga import Unwind
from orchestrator_core.system.names import check_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.outcome import EndReport
    from orchestrator_core.model.records import Agent
    from orchestrator_core.reconcile.legacy.agent import LegacyAgent
    from orchestrator_core.registry import Document
    from orchestrator_core.saga import History, Sagas, Step


@attrs.frozen
class LegacySystem(Predecessor):
    """The agents that the legacy system started below one root."""

    context: RootContext

    def steps(self) -> Sequence[Step[Any]]:
        """Return the step that ends a legacy agent's session."""
        return (EndLegacySession(self.context),)

    def wrote(self, record: Mapping[str, Any]) -> bool:
        """Return whether the legacy system wrote *record*."""
        return is_legacy(record)

    def report(self, agent: Agent) -> EndReport:
        """Return how a legacy agent ended, by its record."""
        return report_of(agent)

    # --- ended entries -------------------------------------------------------------------------

    def ended_entries(self) -> frozenset[str]:
        """
        Return the legacy agents that have ended and are still listed as live.

        The legacy system listed every agent globally and removed few. An entry's agent has
        ended if its task's registry shows the end, or has no record of it, or is gone.
        """
        legacy = {name: entry for name, entry in self._entries().items() if is_legacy(entry)}
        task_ids = {name: str(entry.get("task_id")) for name, entry in legacy.items()}
        documents = {task_id: self._document_or_empty(task_id) for task_id in task_ids.values()}
        return frozenset(
            name for name, task_id in task_ids.items() if _has_ended(documents[task_id], name)
        )

    def _entries(self) -> dict[str, Any]:
        document = self.context.global_registry.read_or_none() or {}
        return dict(document.get("agents", {}))

    def _document_or_empty(self, task_id: str) -> Document | None:
        """Return a task's document; an empty one if the task is gone, None if unreadable."""
        try:
            path = self.context.layout.task_registry(task_id)
        except InvalidId:
            return {}
        return self.context.task_registry(task_id).read_or_none() if path.parent.is_dir() else {}

    # --- adoption ------------------------------------------------------------------------------

    def adopt(self, sagas: Sagas, agent_id: str, why: Unwind | None) -> EndReport | None:
        """
        Create an agent's journal, or return its report if the agent holds nothing.

        Raises:
            NotFound: The legacy system recorded no such agent.
            CouldNotAsk: Whether it is alive, or what belongs to it, is unknown; or no registry
                lists it, and it may be alive. Nothing was changed.
        """
        agent = self._find(agent_id)
        status = inspect_all(self.context, [agent])[agent.id]
        if status.life is LegacyState.UNKNOWN:
            raise CouldNotAsk(
                f"agent {agent.id!r}, recorded by the old system, was left alone: {status.why}",
                hint="if that session is the agent's, end it: "
                f"tmux kill-session -t '={agent.session}'; if it is yours, rename it; then try "
                "again",
            )
        if agent.is_active:
            self._create_journal(sagas, agent, status, why=None)
        elif status.life is LegacyState.ALIVE or agent.files.present or agent.id in self._entries():
            self._create_journal(sagas, agent, status, why=_as_recorded(agent, why))
        else:
            return report_of(agent)
        return None

    def _find(self, agent_id: str) -> LegacyAgent:
        check_id("agent", agent_id)
        for task_id in self.context.layout.task_ids():
            document = self._document(task_id)
            record = find_agent(document, agent_id)
            if record is not None and is_legacy(record):
                agent = legacy_agent(self.context, document, task_id, record)
                if agent is not None:
                    return agent
                session = record.get("tmux_session")
                raise NotFound(
                    f"agent {agent_id!r} was recorded with the session {session!r}, which tmux "
                    "cannot have had",
                    hint=f"its task is {task_id}; what does `tmux list-sessions` show?",
                )
        self._refuse_unlisted(agent_id)
        raise NotFound(f"there is no agent {agent_id!r}")

    def _refuse_unlisted(self, agent_id: str) -> None:
        """Raise CouldNotAsk if an agent that no registry lists may be alive."""
        if re.fullmatch(ids.AGENT_ID, agent_id) is None:
            return
        layout = self.context.layout
        of_tasks = (
            task_id
            for task_id in layout.task_ids()
            if os.path.lexists(layout.log(task_id, agent_id))
            or os.path.lexists(layout.prompt(task_id, agent_id))
        )
        for sign in signs_of_life(self.context, {agent_id: next(of_tasks, None)}).values():
            raise CouldNotAsk(
                f"no registry lists an agent {agent_id!r}, and {sign}; nothing was touched",
                hint="if it is an agent of the old system, end it there, or by hand: "
                f"tmux kill-session -t '={ids.session_name(agent_id)}'",
            )

    def _document(self, task_id: str) -> Document:
        registry = self.context.task_registry(task_id)
        try:
            return registry.read_or_none() or registry.read()
        except (RegistryError, NotFound):
            return {}  # The agent may be in another task.

    def _create_journal(
        self, sagas: Sagas, agent: LegacyAgent, status: LegacyStatus, *, why: Unwind | None
    ) -> None:
        labels = {
            "task_id": agent.task_id,
            "type": str(agent.record.get("type", "")),
            "parent": agent.parent,
            "adopted": status.life.value,
            "deadline_at": None,
        }
        receipts = self._receipts(agent, status)
        try:
            sagas.create_committed(agent.id, receipts, labels=labels, why=why).release()
        except SagaExists:
            return  # Another process has just adopted the agent.

    def _receipts(self, agent: LegacyAgent, status: LegacyStatus) -> dict[str, Any]:
        """Return what the agent holds: planned from its id, with its files and its proofs."""
        entry = self._entries().get(agent.id, {"task_id": agent.task_id})
        values = {"task_id": agent.task_id, "record": dict(agent.record), "entry": entry}
        receipts = plan_receipts(self.context, agent.id, values)
        receipts["write_prompt"] = PromptReceipt(str(agent.files.prompt))
        logs = {name: str(path) for name, path in agent.files._asdict().items() if name != "prompt"}
        receipts["tee_log"] = attrs.evolve(receipts["tee_log"], **logs)
        receipts["spawn_tmux"] = LegacySessionReceipt(
            session=agent.session,
            cookie=ids.process_cookie(self.context.root_id, agent.id),
            seen=status.session,
            roots=status.roots,
            logs=tuple(map(str, agent.logs)),
            born=agent.started_at,
            proofs=status.proofs,
        )
        return receipts

    # --- ends ----------------------------------------------------------------------------------

    def recorded_end(self, history: History) -> Unwind | None:
        """Return the end that the legacy system recorded after an agent was adopted."""
        task_id = str(history.labels.get("task_id"))
        document = self.context.task_registry(task_id).read_or_none() or {}
        record = find_agent(document, history.saga_id)
        agent = record and legacy_agent(self.context, document, task_id, record)
        return _as_recorded(agent, None) if agent and not agent.is_active else None

    def spawn_unwinder(self, agent_id: str) -> None:
        """
        Start a process that unwinds a legacy agent, for an end from inside the agent.

        The process leaves the agent's process tree and POSIX session at once. The agent has no
        supervisor that could become the unwinder.
        """
        subprocess.run(  # noqa: S603 - a fixed argv; the shell only starts the process, and exits
            [
                *("/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh"),
                *unwinder_argv(self.context.layout.root, agent_id),
            ],
            cwd="/",
            env=unwinder_env(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def _has_ended(document: Document | None, agent_id: str) -> bool:
    if document is None:
        return False
    record = find_agent(document, agent_id)
    return record is None or not is_active(record.get("status"))


def _as_recorded(agent: LegacyAgent, why: Unwind | None) -> Unwind:
    """Return the recorded end as a reason to unwind, with the details of *why*."""
    detail = {} if why is None else why.detail
    reason = report_of(agent).reason
    return Unwind.terminal(reason, **{**detail, "status": agent.status, "by": ENDED_BY})
