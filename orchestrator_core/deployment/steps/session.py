"""
The steps of an agent's session: its prompt, its log, and the session with all its processes.

The log is opened before the session starts, and is archived after its last writer is gone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.deployment.documents import build_launch, new_deploy_log
from orchestrator_core.deployment.steps.base import DeploymentStep, presence, task_and_agent
from orchestrator_core.exceptions import Survivors
from orchestrator_core.model import ids
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.supervisor import launch as launch_file
from orchestrator_core.system import durable, move, obstacles
from orchestrator_core.system.interpreter import find_python
from orchestrator_core.system.os_errors import storage_errors
from orchestrator_core.system.processes.exit_record import digest, reserve_exit_records
from orchestrator_core.system.processes.protocol import Identity, OwnershipSelector
from orchestrator_core.system.surrogates import replace_surrogates
from orchestrator_core.system.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator_core.saga import Context
    from orchestrator_core.system.processes.protocol import Survivor, TerminationResult


@receipt("write_prompt")
class PromptReceipt:
    """The prompt file."""

    path: str


class WritePrompt(DeploymentStep):
    """Write the prompt where only its owner can read it."""

    receipt_type = PromptReceipt

    def plan(self, ctx: Context) -> PromptReceipt:
        """Derive the path."""
        return PromptReceipt(str(self.context.layout.prompt(*task_and_agent(ctx))))

    def verify(
        self, receipt: PromptReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> PromptReceipt:
        """Return the path that the agent's id leads to."""
        owner = self.owner(saga_id, labels)
        return PromptReceipt(self.own_path(receipt.path, self.context.layout.prompt, owner))

    def do(self, receipt: PromptReceipt) -> PromptReceipt:
        """Write the file."""
        durable.create(receipt.path, self.inputs.spec.prompt.encode(), durable=False)
        return receipt

    def undo(self, receipt: PromptReceipt, _why: Unwind) -> Outcome:
        """Delete the file."""
        aside = obstacles.clear_file(receipt.path)
        if aside is not None:
            return Outcome.undone(kept=f"no regular file, so set aside: {aside}")
        if not durable.exists(receipt.path):
            return Outcome.absent()
        return Outcome.undone(bytes_freed=durable.remove(receipt.path))

    def probe(self, receipt: PromptReceipt) -> Presence:
        """Return whether the file exists."""
        return presence(receipt.path)


# --- tee_log -----------------------------------------------------------------------------


@receipt("tee_log")
class LogReceipt:
    """The log, and all other files of the agent but the prompt."""

    log: str
    deploy_log: str
    progress: str
    findings: str
    run: str  #: The supervisor's directory.
    archive: str

    @property
    def events(self) -> str:
        """The FIFO of the supervisor's events."""
        return f"{self.run}/events"

    @property
    def launch_file(self) -> str:
        """The supervisor's configuration."""
        return f"{self.run}/launch"

    @property
    def archived_files(self) -> tuple[str, ...]:
        """The files that an end moves to the archive."""
        return self.log, self.deploy_log, self.progress, self.findings

    def clear_directories(self) -> list[str]:
        """Set aside what is in the place of a directory; return the new paths."""
        files = (*self.archived_files, self.run)
        directories = dict.fromkeys((*map(durable.parent_of, files), self.archive))
        return [aside for each in directories if (aside := obstacles.clear_directory(each))]


class OpenLog(DeploymentStep):
    """
    Create the log, and the files that the supervisor reads.

    The log *is* the agent's standard output: there is nothing between them that could lose
    a line.
    """

    receipt_type = LogReceipt

    def plan(self, ctx: Context) -> LogReceipt:
        """Derive the paths."""
        layout, own = self.context.layout, task_and_agent(ctx)
        return LogReceipt(
            log=str(layout.log(*own)),
            deploy_log=str(layout.deploy_log(*own)),
            progress=str(layout.progress(*own)),
            findings=str(layout.findings(*own)),
            run=str(layout.run_dir(*own)),
            archive=str(layout.archive(own[0])),
        )

    def verify(self, receipt: LogReceipt, saga_id: str, labels: Mapping[str, Any]) -> LogReceipt:
        """Return the paths that the agent's id leads to."""
        layout, owner = self.context.layout, self.owner(saga_id, labels)
        return LogReceipt(
            log=self.own_path(receipt.log, layout.log, owner),
            deploy_log=self.own_path(receipt.deploy_log, layout.deploy_log, owner),
            progress=self.own_path(receipt.progress, layout.progress, owner),
            findings=self.own_path(receipt.findings, layout.findings, owner),
            run=str(layout.run_dir(*owner)),
            archive=str(layout.archive(owner.task_id)),
        )

    def do(self, receipt: LogReceipt) -> LogReceipt:
        """Create the files."""
        receipt.clear_directories()
        for name in (receipt.log, receipt.progress, receipt.findings, receipt.run):
            durable.make_directory(durable.parent_of(name))
        durable.make_directory(receipt.archive)
        durable.create(receipt.log, b"", durable=False)
        launch = build_launch(self.context, self.inputs)
        deploy_log = new_deploy_log(self.context, self.inputs, cwd=launch.cwd)
        encoded = msgspec.json.format(msgspec.json.encode(replace_surrogates(deploy_log)))
        durable.create(receipt.deploy_log, encoded + b"\n", durable=False)
        with storage_errors("make", receipt.run):
            os.mkdir(receipt.run, 0o700)
            os.mkfifo(receipt.events, 0o600)
            reserve_exit_records(receipt.run)
            durable.create(receipt.launch_file, launch_file.encode(launch), durable=False)
        return receipt

    def undo(self, receipt: LogReceipt, why: Unwind) -> Outcome:
        """
        Archive the log and the reports; or delete all of it, if *why* says so.

        What an agent has put in the place of its files or their directories is set aside.
        """
        aside = receipt.clear_directories()
        aside += filter(None, map(obstacles.clear_file, receipt.archived_files))
        kept = {"kept": f"set aside: {', '.join(aside)}"} if aside else {}
        there = [path for path in receipt.archived_files if durable.exists(path)]
        if not there and not durable.exists(receipt.run):
            return Outcome.absent(**kept)
        archived: list[str] = []
        freed = 0
        if why.removes_everything or not why.detail.get("keep_logs", True):
            freed += sum(durable.remove(path, durable=False) for path in there)
            for directory in set(map(durable.parent_of, there)):
                durable.fsync_directory(directory)
        elif there:
            durable.make_directory(receipt.archive)
            archived = move.move_all_no_clobber(
                [(path, f"{receipt.archive}/{os.path.basename(path)}") for path in there]
            )
        freed += _remove_run_directory(receipt.run)
        return Outcome.undone(archived=archived, bytes_freed=freed, **kept)

    def probe(self, receipt: LogReceipt) -> Presence:
        """Return whether the log exists."""
        return presence(receipt.log)


def _remove_run_directory(run: str) -> int:
    """Remove the supervisor's directory with its content; return the size in bytes."""
    with storage_errors("remove", run):
        try:
            return remove_tree(run)
        except FileNotFoundError:
            return 0


# --- spawn_tmux ----------------------------------------------------------------------------------


@receipt("spawn_tmux")
@attrs.frozen
class SessionReceipt:
    """The session, and what identifies its processes."""

    session: str
    cookie: str
    exit_file: str | None  #: The supervisor's exit record; None if there is no supervisor.
    cgroup: str | None = None
    supervisor: Identity | None = None  #: Known once it runs; the run directory leads to it before.

    survivors: tuple[Identity, ...] = ()  #: Of an undo that failed.
    #: The digest of the supervisor's secret. None in a journal of an earlier release.
    witness: str | None = None

    @property
    def selector(self) -> OwnershipSelector:
        """What selects the agent's processes."""
        return OwnershipSelector(
            cookie=self.cookie,
            survivors=self.survivors,
            witness=self.witness,
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
            # Of a journal that was lost, the secret is unknown: its digest is that of no secret.
            witness=digest(self.inputs.secret) if self.deployment is not None else "lost",
        )

    def verify(
        self, receipt: SessionReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> SessionReceipt:
        """
        Return the names that the agent's id leads to.

        The supervisor stays as recorded: the process itself proves that it is the agent's, by
        the cookie in its environment.
        """
        agent_id, root_id = naming_id(saga_id, labels), self.context.root_id
        exit_file, cgroup = receipt.exit_file, receipt.cgroup
        if exit_file is not None:
            exit_file = f"{self.context.layout.run_dir(*self.owner(saga_id, labels))}/exit"
        if cgroup is not None and os.path.basename(cgroup) != ids.cgroup_name(root_id, agent_id):
            cgroup = None
        return SessionReceipt(
            session=ids.session_name(agent_id),
            cookie=ids.process_cookie(root_id, agent_id),
            exit_file=exit_file,
            cgroup=cgroup,
            supervisor=receipt.supervisor,
            survivors=receipt.survivors,  # They are only named.
            witness=receipt.witness,
        )

    def do(self, receipt: SessionReceipt) -> SessionReceipt:
        """Start the session in one call, under a name that no other saga uses."""
        if receipt.cgroup is not None:
            self.context.processes.create_cgroup(receipt.cgroup)
        run = self.context.layout.run_dir(self.inputs.task_id, self.inputs.agent_id)
        command = launch_file.command(f"{run}/launch", python=find_python())
        session = self.context.terminal.start(receipt.session, owner=receipt.cookie, argv=command)
        return attrs.evolve(receipt, supervisor=self.context.processes.identify(session.pane_pid))

    def undo(self, receipt: SessionReceipt, _why: Unwind) -> Outcome:
        """End every process of the agent, then its session, with proof."""
        selector = self._selector(receipt)
        ending = self.context.processes.terminate_all(selector, self.context.patience)
        # Processes first: they end even if tmux hangs, and this raises.
        found = self.context.terminal.kill(receipt.session, owner=receipt.cookie)
        if ending.survivors:
            raise _left_alive(ending.survivors)
        if found is Presence.FOREIGN:
            return Outcome.left(session="foreign", **_facts(ending))
        was_there = (
            found is Presence.OURS or ending.signalled > 0 or selector.supervisor is not None
        )
        facts = {"session": found.value, **_facts(ending)}
        if ending.refused:
            facts["kept"] = "; ".join(ending.refused)
        return Outcome.undone(**facts) if was_there else Outcome.absent(**facts)

    def _selector(self, receipt: SessionReceipt) -> OwnershipSelector:
        if receipt.supervisor is not None:
            return receipt.selector
        # A crash came before the pid was recorded, or the journal was damaged.
        found = self.context.processes.find_supervisor(receipt.selector)
        return attrs.evolve(receipt.selector, supervisor=found)

    def probe(self, receipt: SessionReceipt) -> Presence:
        """Return whether the session exists."""
        return self.context.terminal.inspect(receipt.session, owner=receipt.cookie).presence


def _left_alive(survivors: Sequence[Survivor]) -> Survivors:
    """Return the error that names *survivors*, and lets the next undo look for the same ones."""
    names = [f"{one.pid} ({one.name})" for one in survivors]
    denied = [str(one.pid) for one in survivors if one.denied]
    reason, hint = "", "a process that ignores SIGKILL waits for the kernel; try again later"
    if denied:
        reason = f"; {', '.join(denied)} runs as another user, and the kernel refuses our signals"
        hint = f"end it as that user, for example: sudo kill -9 {' '.join(denied)}; then recover"
    error = Survivors(
        f"still alive after SIGKILL: {', '.join(names)}{reason}", hint=hint, leaked=names
    )
    error.remember = {"survivors": [one.identity for one in survivors if one.identity is not None]}
    return error


def _facts(ending: TerminationResult) -> dict[str, Any]:
    return {
        "method": ending.method,
        "proven": ending.proven,
        "processes_ended": ending.signalled,
        "forced": ending.forced,
    }
