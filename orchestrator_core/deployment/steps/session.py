"""The step that holds the session, and every process that was started in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment.steps.base import DeploymentStep, task_and_agent
from orchestrator_core.exceptions import Survivors
from orchestrator_core.model import ids
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.supervisor import launch as launch_file
from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector

if TYPE_CHECKING:
    from orchestrator_core.saga import Context
    from orchestrator_core.system.processes.protocol import TerminationResult


@receipt("spawn_tmux")
@attrs.frozen
class SessionReceipt:
    """The session, and what identifies its processes."""

    session: str
    cookie: str
    exit_file: str | None  #: The supervisor's exit record; None if there is no supervisor.
    cgroup: str | None = None
    supervisor: Identity | None = None  #: Known once it runs; the name finds it before.

    @property
    def selector(self) -> OwnershipSelector:
        """What selects the agent's processes."""
        return OwnershipSelector(
            cookie=self.cookie,
            supervisor=self.supervisor,
            cgroup=self.cgroup,
            exit_file=self.exit_file,
        )


class SpawnTmux(DeploymentStep):
    """Start the session, whose supervisor waits at its gate."""

    receipt_type = SessionReceipt

    def plan(self, ctx: Context) -> SessionReceipt:
        """Derive the names of the session and, if it can be created, of the cgroup."""
        cookie = ids.process_cookie(self.context.root_id, ctx.saga_id)
        cgroup = ids.cgroup_name(self.context.root_id, ctx.saga_id)
        return SessionReceipt(
            session=ids.session_name(ctx.saga_id),
            cookie=cookie,
            exit_file=f"{self.context.layout.run_dir(*task_and_agent(ctx))}/exit",
            cgroup=self.context.processes.cgroup_path(cgroup),
        )

    def do(self, receipt: SessionReceipt) -> SessionReceipt:
        """Start the session in one call, under a name that no other saga uses."""
        if receipt.cgroup is not None:
            self.context.processes.create_cgroup(receipt.cgroup)
        run = self.context.layout.run_dir(self.inputs.task_id, self.inputs.agent_id)
        session = self.context.terminal.start(
            receipt.session, owner=receipt.cookie, argv=launch_file.command(f"{run}/launch")
        )
        return attrs.evolve(receipt, supervisor=self.context.processes.identify(session.pane_pid))

    def undo(self, receipt: SessionReceipt, _why: Unwind) -> Outcome:
        """End every process of the agent, then its session, with proof."""
        selector = self._selector(receipt)
        ending = self.context.processes.terminate_all(selector, self.context.patience)
        # Processes first: they end even if tmux hangs, and this raises.
        found = self.context.terminal.kill(receipt.session, owner=receipt.cookie)
        if ending.survivors:
            names = [f"{one.pid} ({one.name})" for one in ending.survivors]
            raise Survivors(
                f"still alive after SIGKILL: {', '.join(names)}",
                hint="a process that ignores SIGKILL waits for the kernel; try again later",
                leaked=names,
            )
        if found is Presence.FOREIGN:
            return Outcome.left(session="foreign", **_facts(ending))
        was_there = (
            found is Presence.OURS or ending.signalled > 0 or selector.supervisor is not None
        )
        facts = {"session": found.value, **_facts(ending)}
        return Outcome.undone(**facts) if was_there else Outcome.absent(**facts)

    def _selector(self, receipt: SessionReceipt) -> OwnershipSelector:
        # After a crash before the pid was recorded, the name leads to the session.
        if receipt.supervisor is not None:
            return receipt.selector
        sighting = self.context.terminal.inspect(receipt.session, owner=receipt.cookie)
        if sighting.presence is not Presence.OURS or sighting.session is None:
            return receipt.selector
        found = self.context.processes.identify(sighting.session.pane_pid)
        return attrs.evolve(receipt.selector, supervisor=found)

    def probe(self, receipt: SessionReceipt) -> Presence:
        """Return whether the session exists."""
        return self.context.terminal.inspect(receipt.session, owner=receipt.cookie).presence


def _facts(ending: TerminationResult) -> dict[str, Any]:
    return {
        "method": ending.method,
        "proven": ending.proven,
        "processes_ended": ending.signalled,
        "forced": ending.forced,
    }
