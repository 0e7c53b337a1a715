"""
The five steps of a deployment.

================ ======================================= =====================================
step             do                                      undo
================ ======================================= =====================================
write_prompt     the prompt file                         delete it
tee_log          the log, and the supervisor's files     archive it, or delete it
spawn_tmux       one session, waiting at its gate        end every process, then the session
register_task    the record in the task's registry       its final status, or remove it
register_global  the record in the global registry       remove it
================ ======================================= =====================================

The order is the point. The log is opened before the session starts, so that it
is sealed after its last writer is gone. The registries come last and go first:
nobody is told of an agent that is being torn down.

Names are derived from the agent's id, so an undo finds all that the id could
own, whatever of it came to be. What must not be written down (the prompt, the
environment) is in the :class:`Deployment`, which only ``do`` sees.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core import _files, ids, supervisor
from orchestrator_core._clock import timestamp
from orchestrator_core.agents import Status
from orchestrator_core.exceptions import CouldNotAsk, NotFound, Survivors
from orchestrator_core.processes.port import Claim, Identity
from orchestrator_core.records import add_agent, end_agent, enter_agent, leave_agent, remove_agent
from orchestrator_core.saga import Outcome, Presence, Unwind, receipt
from orchestrator_core.supervisor import launch as launching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator_core.processes.port import Ending
    from orchestrator_core.registry import Registry
    from orchestrator_core.saga import Context, Step
    from orchestrator_core.supervisor.launch import Launch
    from orchestrator_core.world import World


@attrs.frozen(kw_only=True)
class Deployment:
    """What one deployment brings to its steps, and no journal ever holds."""

    prompt: str = attrs.field(repr=False)
    launch: Launch = attrs.field(repr=False)
    launch_file: str
    deploy_log: Mapping[str, Any]


def deployment_steps(world: World, deployment: Deployment) -> list[Step[Any]]:
    """Return the steps that deploy one agent, in order."""
    return [kind(world, deployment) for kind in _KINDS]


def undoing_steps(world: World) -> list[Step[Any]]:
    """Return steps that can undo and probe any agent of this root, and deploy none."""
    return [kind(world) for kind in _KINDS]


@attrs.frozen
class _DeploymentStep:
    """
    A step of a deployment.

    ``plan`` needs the ids alone: ``task_id`` among the context's values, and the
    agent's id, which is the saga's. ``do`` needs the deployment as well.
    """

    world: World
    deployment: Deployment | None = None

    @property
    def given(self) -> Deployment:
        """The deployment to do; undoing needs none."""
        if self.deployment is None:
            raise RuntimeError(f"{type(self).__name__} was made to undo, not to do")
        return self.deployment


def _names(ctx: Context) -> tuple[str, str]:
    return ctx.values["task_id"], ctx.saga_id


# --- write_prompt -----------------------------------------------------------------------------


@receipt("write_prompt")
class PromptReceipt:
    """Where the prompt is."""

    path: str


class WritePrompt(_DeploymentStep):
    """Write the prompt where only its owner can read it."""

    receipt_type = PromptReceipt

    def plan(self, ctx: Context) -> PromptReceipt:
        """Name the file."""
        return PromptReceipt(str(self.world.places.prompt(*_names(ctx))))

    def do(self, receipt: PromptReceipt) -> PromptReceipt:
        """Write it."""
        _files.create(Path(receipt.path), self.given.prompt.encode(), durable=False)
        return receipt

    def undo(self, receipt: PromptReceipt, _why: Unwind) -> Outcome:
        """Delete it."""
        path = Path(receipt.path)
        if not os.path.lexists(path):
            return Outcome.absent()
        return Outcome.undone(bytes_freed=_files.remove(path))

    def probe(self, receipt: PromptReceipt) -> Presence:
        """Look for it."""
        return _presence(receipt.path)


# --- tee_log -----------------------------------------------------------------------------


@receipt("tee_log")
class LogReceipt:
    """The log and all that belongs to it."""

    log: str
    deploy_log: str
    progress: str
    findings: str
    run: str  #: The supervisor's directory.
    archive: str

    @property
    def kept(self) -> tuple[Path, ...]:
        """The files that are worth keeping when a life has ended."""
        return tuple(map(Path, (self.log, self.deploy_log, self.progress, self.findings)))


class TeeLog(_DeploymentStep):
    """
    Open the log, and lay out what the supervisor is to read.

    The log *is* the agent's standard output: nothing stands between them that
    could lose a line.
    """

    receipt_type = LogReceipt

    def plan(self, ctx: Context) -> LogReceipt:
        """Name the files."""
        places, names = self.world.places, _names(ctx)
        return LogReceipt(
            log=str(places.log(*names)),
            deploy_log=str(places.deploy_log(*names)),
            progress=str(places.progress(*names)),
            findings=str(places.findings(*names)),
            run=str(places.run(*names)),
            archive=str(places.archive(names[0])),
        )

    def do(self, receipt: LogReceipt) -> LogReceipt:
        """Make them."""
        for name in (receipt.log, receipt.progress, receipt.findings, receipt.run):
            _files.make_directory(Path(name).parent)
        _files.make_directory(Path(receipt.archive))
        _files.create(Path(receipt.log), b"", durable=False)
        deploy_log = msgspec.json.format(msgspec.json.encode(self.given.deploy_log))
        _files.create(Path(receipt.deploy_log), deploy_log + b"\n", durable=False)
        given = self.given
        with _files.refusals("make", Path(receipt.run)):
            os.mkdir(receipt.run, 0o700)  # noqa: PTH102 - see _files
            os.mkfifo(given.launch.events, 0o600)
            launching.write(given.launch_file, given.launch)
        return receipt

    def undo(self, receipt: LogReceipt, why: Unwind) -> Outcome:
        """Archive the log and what was reported; or delete it all, as *why* has it."""
        there = [path for path in receipt.kept if os.path.lexists(path)]
        run = Path(receipt.run)
        if not there and not run.exists():
            return Outcome.absent()
        archived: list[Path] = []
        freed = 0
        if why.leaves_nothing or not why.detail.get("keep_logs", True):
            freed += sum(_files.remove(path, durable=False) for path in there)
            for directory in {path.parent for path in there}:
                _files.fsync_directory(directory)
        elif there:
            archive = Path(receipt.archive)
            _files.make_directory(archive)
            archived = _files.move_all_no_clobber([(path, archive / path.name) for path in there])
        freed += _remove_run_directory(run)
        return Outcome.undone(archived=[str(path) for path in archived], bytes_freed=freed)

    def probe(self, receipt: LogReceipt) -> Presence:
        """Look for the log."""
        return _presence(receipt.log)


def _remove_run_directory(run: Path) -> int:
    """Remove the supervisor's directory and what it may hold; return the bytes of it."""
    try:
        with os.scandir(run) as entries:
            freed = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except FileNotFoundError:
        return 0
    with _files.refusals("remove", run):
        shutil.rmtree(run)
    return freed


# --- spawn_tmux -----------------------------------------------------------------------------


@receipt("spawn_tmux")
@attrs.frozen
class SessionReceipt:
    """The session, and all by which its processes are known."""

    session: str
    cookie: str
    exit_file: str  #: Where its supervisor writes how it ended.
    cgroup: str | None = None
    supervisor: Identity | None = None  #: Known once it is there; the names find it without.

    @property
    def claim(self) -> Claim:
        """What may be ended as ours."""
        return Claim(
            cookie=self.cookie,
            supervisor=self.supervisor,
            cgroup=self.cgroup,
            exit_file=self.exit_file,
        )


class SpawnTmux(_DeploymentStep):
    """Start the session, with the supervisor waiting at its gate."""

    receipt_type = SessionReceipt

    def plan(self, ctx: Context) -> SessionReceipt:
        """Name the session, and the cgroup if one can be had."""
        cookie = ids.cookie_of(self.world.root_id, ctx.saga_id)
        cgroup = ids.cgroup_of(self.world.root_id, ctx.saga_id)
        return SessionReceipt(
            session=ids.session_of(ctx.saga_id),
            cookie=cookie,
            exit_file=str(self.world.places.run(*_names(ctx)) / "exit"),
            cgroup=self.world.processes.containment(cgroup),
        )

    def do(self, receipt: SessionReceipt) -> SessionReceipt:
        """Start it: one call, under a name that no other saga can hold."""
        if receipt.cgroup is not None:
            self.world.processes.make_containment(receipt.cgroup)
        session = self.world.terminal.start(
            receipt.session,
            owner=receipt.cookie,
            argv=supervisor.command(self.given.launch_file),
        )
        return attrs.evolve(receipt, supervisor=self.world.processes.identify(session.pane_pid))

    def undo(self, receipt: SessionReceipt, _why: Unwind) -> Outcome:
        """End every process of the agent, then its session, and prove it."""
        claim = self._claim(receipt)
        ending = self.world.processes.end(claim, self.world.patience)
        # Processes first: they could be ended even if tmux hangs, and raises here.
        found = self.world.terminal.end(receipt.session, owner=receipt.cookie)
        if ending.survivors:
            names = [f"{one.pid} ({one.name})" for one in ending.survivors]
            raise Survivors(
                f"still alive after SIGKILL: {', '.join(names)}",
                hint="a process that ignores SIGKILL waits for the kernel; try again later",
                leaked=names,
            )
        if found is Presence.FOREIGN:
            return Outcome.left(session="foreign", **_facts(ending))
        was_there = found is Presence.OURS or ending.ended > 0 or claim.supervisor is not None
        facts = {"session": found.value, **_facts(ending)}
        return Outcome.undone(**facts) if was_there else Outcome.absent(**facts)

    def _claim(self, receipt: SessionReceipt) -> Claim:
        # A crash may have come before the pid was known; the name still finds it.
        if receipt.supervisor is not None:
            return receipt.claim
        sighting = self.world.terminal.look(receipt.session, owner=receipt.cookie)
        if sighting.presence is not Presence.OURS or sighting.session is None:
            return receipt.claim
        found = self.world.processes.identify(sighting.session.pane_pid)
        return attrs.evolve(receipt.claim, supervisor=found)

    def probe(self, receipt: SessionReceipt) -> Presence:
        """Look for the session."""
        return self.world.terminal.look(receipt.session, owner=receipt.cookie).presence


def _facts(ending: Ending) -> dict[str, Any]:
    return {
        "method": ending.method,
        "proven": ending.proven,
        "processes_ended": ending.ended,
        "forced": ending.forced,
    }


# --- register_task -----------------------------------------------------------------------------


@receipt("register_task")
class TaskReceipt:
    """The record, as it was first written; a lost registry is rebuilt from it."""

    task_id: str
    agent_id: str
    record: dict[str, Any]


class RegisterTask(_DeploymentStep):
    """Enter the agent in its task's registry, under whose lock the limits hold."""

    receipt_type = TaskReceipt

    def plan(self, ctx: Context) -> TaskReceipt:
        """Fix the record."""
        task_id, agent_id = _names(ctx)
        return TaskReceipt(task_id=task_id, agent_id=agent_id, record=ctx.values["record"])

    def do(self, receipt: TaskReceipt) -> TaskReceipt:
        """Write it."""
        registry = self.world.task_registry(receipt.task_id)
        registry.update(lambda document: add_agent(document, receipt.record, self.world.limits))
        return receipt

    def undo(self, receipt: TaskReceipt, why: Unwind) -> Outcome:
        """Give it its final status; or take it out, if it never came to be."""
        registry = self.world.task_registry(receipt.task_id)
        try:
            if why.leaves_nothing:
                changed = registry.update(lambda doc: remove_agent(doc, receipt.agent_id))
            else:
                end = final_status(why)
                changed = registry.update(lambda doc: end_agent(doc, receipt.agent_id, end))
        except NotFound:
            return Outcome.absent(registry="gone")
        return Outcome.undone() if changed else Outcome.absent()

    def probe(self, receipt: TaskReceipt) -> Presence:
        """Look for the record."""
        return _entered(
            self.world.task_registry(receipt.task_id),
            lambda doc: any(entry.get("id") == receipt.agent_id for entry in doc["agents"]),
        )


def final_status(why: Unwind) -> dict[str, Any]:
    """Return what a record says of an end, in the names that people's tools know."""
    now = timestamp()
    status = why.detail["status"]
    end = {
        "status": status,
        "completed_at": now,
        "last_update": now,
        "end_reason": why.message,
        "exit_code": why.detail.get("exit_code"),
        "exit_signal": why.detail.get("exit_signal"),
    }
    if status == Status.TERMINATED.value:
        end |= {"terminated_at": now, "termination_reason": why.message}
    return end


# --- register_global -----------------------------------------------------------------------------


@receipt("register_global")
class GlobalReceipt:
    """The entry, as it was first written."""

    agent_id: str
    entry: dict[str, Any]


class RegisterGlobal(_DeploymentStep):
    """Enter the agent among the living of this root."""

    receipt_type = GlobalReceipt

    def plan(self, ctx: Context) -> GlobalReceipt:
        """Fix the entry."""
        return GlobalReceipt(agent_id=ctx.saga_id, entry=ctx.values["entry"])

    def do(self, receipt: GlobalReceipt) -> GlobalReceipt:
        """Write it."""
        self.world.global_registry.update(
            lambda doc: enter_agent(doc, receipt.agent_id, receipt.entry, self.world.limits)
        )
        return receipt

    def undo(self, receipt: GlobalReceipt, why: Unwind) -> Outcome:
        """Take it out, and count the end of a life that was one."""
        status = None if why.leaves_nothing else str(why.detail["status"])
        with contextlib.suppress(NotFound):
            if self.world.global_registry.update(
                lambda doc: leave_agent(doc, receipt.agent_id, status)
            ):
                return Outcome.undone()
        return Outcome.absent()

    def probe(self, receipt: GlobalReceipt) -> Presence:
        """Look for the entry."""
        return _entered(
            self.world.global_registry, lambda doc: receipt.agent_id in doc.get("agents", {})
        )


_KINDS = (WritePrompt, TeeLog, SpawnTmux, RegisterTask, RegisterGlobal)


def _presence(path: str) -> Presence:
    return Presence.OURS if os.path.lexists(path) else Presence.ABSENT


def _entered(registry: Registry, holds: Callable[[dict[str, Any]], bool]) -> Presence:
    try:
        return Presence.OURS if holds(registry.read()) else Presence.ABSENT
    except NotFound:
        return Presence.ABSENT
    except CouldNotAsk:
        return Presence.UNKNOWN
