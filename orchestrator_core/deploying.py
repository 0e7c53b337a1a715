"""
A deployment: from a spec to a running agent, or to nothing at all.

Everything that can be refused is refused first. Then the saga runs and commits,
and letting go of its journal opens the supervisor's gate. What is heard through
the events FIFO after that (started, refused, exited) is news only: the decision
that a deployment failed after its commit is made under the agent's lock, like
every other end.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from orchestrator_core import agents, ids
from orchestrator_core._clock import timestamp
from orchestrator_core.agents import Status
from orchestrator_core.exceptions import (
    DeploymentError,
    InvalidInput,
    LimitReached,
    OrchestratorError,
    SagaNotFound,
)
from orchestrator_core.records import (
    KeyTaken,
    check_global_limits,
    check_task_limits,
)
from orchestrator_core.saga import Reason, State, Unwind
from orchestrator_core.saga.unwinding import describe
from orchestrator_core.steps import Deployment, LogReceipt, SessionReceipt, deployment_steps
from orchestrator_core.supervisor.launch import Launch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from orchestrator_core.agents import AgentSpec
    from orchestrator_core.lifecycle import Lifecycle
    from orchestrator_core.processes.port import Identity
    from orchestrator_core.saga import Saga, UnwindReport
    from orchestrator_core.world import World

_START_S = 10.0  #: From the open gate to the agent's first instruction.
_KEY_TRIES = 3  #: How often a key is found taken by an agent that turns out to be over.
_EXCERPT = 200  #: Characters of the prompt that its record shows.
_OUTPUT_SHOWN = 2000  #: Bytes of an early death's output that the error shows.

#: What a deployment takes, in the words of the tools that people have.
_RESOURCES = {
    "write_prompt": "prompt_file",
    "tee_log": "log_files",
    "spawn_tmux": "tmux_session",
    "register_task": "task_registry",
    "register_global": "global_registry",
}


class Deployer:
    """Deploys agents below one root."""

    def __init__(self, world: World, lifecycle: Lifecycle, *, timeout_s: float) -> None:
        self._world = world
        self._lifecycle = lifecycle
        self._timeout_s = timeout_s

    def deploy(self, task_id: str, spec: AgentSpec, *, grace_s: float) -> str:
        """Deploy an agent, and return its id; see :meth:`Orchestrator.deploy`."""
        if not 0 <= grace_s < math.inf:
            raise InvalidInput(f"a grace of {grace_s} s is no time")
        for _ in range(_KEY_TRIES):
            try:
                return self._deploy_once(task_id, spec, grace_s=grace_s)
            except KeyTaken as taken:
                if self._lives(taken.agent_id):
                    return taken.agent_id
        return self._deploy_once(task_id, spec, grace_s=grace_s)

    def _deploy_once(self, task_id: str, spec: AgentSpec, *, grace_s: float) -> str:
        self._refuse_early(task_id, spec)
        agent_id = ids.new_agent_id(spec.type)
        self._deploy(task_id, agent_id, spec, grace_s=grace_s)
        return agent_id

    def _lives(self, agent_id: str) -> bool:
        """
        Tell whether the holder of a key lives; wait for one that is being deployed.

        One whose deployer died is recovered, which frees the key.
        """
        try:
            with self._lifecycle.sagas.open(agent_id, timeout_s=self._timeout_s) as saga:
                if saga.state is State.COMMITTED:
                    return True
            self._lifecycle.recover(only=agent_id)
        except SagaNotFound:
            pass  # It is over.
        return False

    # --- before anything is taken --------------------------------------------------------------

    def _refuse_early(self, task_id: str, spec: AgentSpec) -> None:
        """
        Refuse what can be refused now.

        The limits and the key are looked at without a lock: who is refused here
        would be refused there, and who slips through here is not let through there.

        Raises:
            KeyTaken: An agent lives under the spec's key.
            InvalidInput, NotFound, LimitReached, TerminalUnavailable: See deploy.
        """
        spec.directory()
        spec.program()
        document = self._world.task_registry(task_id).read()
        check_global_limits(self._world.global_registry.read(), spec.key, self._world.limits)
        check_task_limits(document, spec.parent, self._world.limits)
        self._world.terminal.check()

    # --- the saga --------------------------------------------------------------------------------

    def _deploy(self, task_id: str, agent_id: str, spec: AgentSpec, *, grace_s: float) -> None:
        deployment = self._prepare(task_id, agent_id, spec)
        labels = {
            "task_id": task_id,
            "type": spec.type,
            "parent": spec.parent,
            "grace_s": grace_s,
            "deadline_at": time.time() + spec.deadline_s if spec.deadline_s else None,
        }
        saga = self._lifecycle.sagas.begin(
            agent_id,
            deployment_steps(self._world, deployment),
            values={
                "task_id": task_id,
                "record": _record(agent_id, task_id, spec, self._world, labels),
                "entry": _entry(agent_id, task_id, spec, labels),
            },
            labels=labels,
        )
        try:
            with saga:
                saga.run()
                news = _News(deployment.launch.events, saga.receipt(LogReceipt).log)
                with news:
                    saga.commit()
                    saga.release()
                    supervisor = saga.receipt(SessionReceipt).supervisor
                    self._see_it_start(agent_id, supervisor, news, grace_s=grace_s)
        except BaseException as error:
            report = saga.report or self._roll_back(saga, error)
            failure = _failure(error, agent_id, report)
            if failure is error:
                raise
            raise failure from error

    def _prepare(self, task_id: str, agent_id: str, spec: AgentSpec) -> Deployment:
        world, places = self._world, self._world.places
        run = places.run(task_id, agent_id)
        prompt = places.prompt(task_id, agent_id)
        values = {
            "prompt_file": str(prompt),
            "agent_id": agent_id,
            "task_id": task_id,
            "workspace": str(places.task(task_id)),
        }
        own = {
            agents.ENV_ROOT: str(places.root),
            agents.ENV_AGENT: agent_id,
            agents.ENV_TASK: task_id,
            agents.ENV_COOKIE: ids.cookie_of(world.root_id, agent_id),
        }
        launch = Launch(
            journal=str(places.journal(agent_id)),
            log=str(places.log(task_id, agent_id)),
            exit_file=str(run / "exit"),
            events=str(run / "events"),
            argv=spec.argv(values),
            env=spec.environment(own),
            cwd=str(spec.directory()),
            stdin=str(prompt) if spec.stdin else os.devnull,
            cgroup=world.processes.containment(ids.cgroup_of(world.root_id, agent_id)),
            term_s=world.patience.term_s,
            kill_s=world.patience.kill_s,
            linger_s=world.patience.linger_s,
            deadline_s=spec.deadline_s,
            heir=_heir(places.root, agent_id),
            heir_env=_heir_environment(),
        )
        return Deployment(
            prompt=spec.prompt,
            launch=launch,
            launch_file=str(run / "launch"),
            deploy_log=_deploy_log(agent_id, task_id, spec, world),
        )

    # --- after the commit ------------------------------------------------------------------------

    def _see_it_start(
        self, agent_id: str, supervisor: Identity | None, news: _News, *, grace_s: float
    ) -> None:
        """
        Wait until the agent runs, and through its grace.

        Raises:
            DeploymentError: It did not start, and is still to be undone.
            _Early: It never ran, or died early, and has been undone.
        """
        heard = self._listen(supervisor, news, {"started", "refused"}, timeout_s=_START_S)
        if heard is None:
            raise DeploymentError(f"the agent's supervisor did not answer within {_START_S:g} s")
        if heard == "started":
            if not grace_s:
                return
            heard = self._listen(supervisor, news, {"exited"}, timeout_s=grace_s)
        elif heard == "refused":
            # That is said first, and written down, for settle to read, only then.
            heard = self._listen(supervisor, news, {"exited"}, timeout_s=_START_S)
        if heard == "gone":
            raise DeploymentError("the agent's supervisor was killed")
        report = self._lifecycle.settle(agent_id, timeout_s=self._timeout_s)
        if report is not None and report.why.reason is not Reason.TERMINAL:
            raise _Early(report, news.output())

    def _listen(
        self, supervisor: Identity | None, news: _News, words: set[str], *, timeout_s: float
    ) -> str | None:
        """Return the first of *words* that is heard, "gone" if nobody can say one any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            heard = news.read() & words
            if heard:
                return heard.pop()
            if news.is_over:
                return "gone"
            left_s = max(0.0, deadline - time.monotonic())
            seen = self._world.processes.watch(supervisor, timeout_s=left_s, fd=news.fd)
            if seen.gone and not seen.news:
                return "gone"
            if not seen.news:
                return None

    def _roll_back(self, saga: Saga, error: BaseException) -> UnwindReport | None:
        """Undo a deployment that failed after its commit; None if that could not be done."""
        if isinstance(error, _Early):
            return error.report
        why = Unwind.rollback(describe(error), error=type(error).__name__)
        try:
            return self._lifecycle.sagas.unwind(saga.saga_id, why, timeout_s=self._timeout_s)
        except OrchestratorError as trouble:
            error.add_note(f"and it could not be undone: {trouble}")
            return None


class _Early(Exception):
    """The agent never ran, or died within its grace; it has been undone."""

    def __init__(self, report: UnwindReport, output: str) -> None:
        super().__init__(report.why.message)
        self.report = report
        self.output = output


class _News:
    """The reading end of the supervisor's events, open before it can have any."""

    def __init__(self, events: str, log: str) -> None:
        self.fd = os.open(events, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Held open: should the agent be undone before we look, its log is still to be read.
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._text = b""
        self.is_over = False  #: The supervisor has let go of its end.

    def read(self) -> set[str]:
        """Return the words that have been heard so far."""
        try:
            while not self.is_over:
                piece = os.read(self.fd, 4096)
                self._text += piece
                self.is_over = not piece and bool(self._text)
                if not piece:
                    break
        except BlockingIOError:
            pass
        lines = self._text.split(b"\n")[:-1]
        return {line.split(b" ", 1)[0].decode() for line in lines}

    def output(self) -> str:
        """Return the last of what the agent wrote."""
        size = os.fstat(self._log).st_size
        start = max(0, size - _OUTPUT_SHOWN)
        return os.pread(self._log, _OUTPUT_SHOWN, start).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        os.close(self._log)


def _failure(error: BaseException, agent_id: str, report: UnwindReport | None) -> BaseException:
    """Return what the caller is to see: his own interrupt, or an error that tells what is left."""
    if not isinstance(error, Exception):
        return error
    if isinstance(error, KeyTaken) and report is not None and report.closed:
        return error
    cleaned, leaked = _account(report)
    kind = LimitReached if isinstance(error, LimitReached) else DeploymentError
    return kind(
        f"agent {agent_id!r} was not deployed: {error}",
        hint=getattr(error, "hint", ""),
        leaked=leaked,
        agent_id=agent_id,
        cleanup_performed=report is not None,
        resources_cleaned=cleaned,
        output=getattr(error, "output", ""),
    )


def _account(report: UnwindReport | None) -> tuple[dict[str, bool], list[str]]:
    """Return what was given back, and what may still be there."""
    if report is None:
        return {}, list(_RESOURCES.values())
    names = {step.step: _RESOURCES.get(step.step, step.step) for step in report.steps}
    cleaned = {names[step.step]: not step.failed for step in report.steps}
    return cleaned, [f"{names[step.step]}: {step.error}" for step in report.failed]


# --- what is written of an agent ------------------------------------------------------------------


def _record(
    agent_id: str, task_id: str, spec: AgentSpec, world: World, labels: Mapping[str, Any]
) -> dict[str, Any]:
    places, now = world.places, timestamp()
    return {
        "id": agent_id,
        "type": spec.type,
        "tmux_session": ids.session_of(agent_id),
        "parent": spec.parent,
        "depth": 1,  # set where the parent's is known, under the registry's lock
        "status": Status.RUNNING.value,
        "started_at": now,
        "progress": 0,
        "last_update": now,
        "prompt": spec.prompt[:_EXCERPT],
        "key": spec.key,
        "deadline_at": labels["deadline_at"],
        "tracked_files": {
            "prompt_file": str(places.prompt(task_id, agent_id)),
            "log_file": str(places.log(task_id, agent_id)),
            "progress_file": str(places.progress(task_id, agent_id)),
            "findings_file": str(places.findings(task_id, agent_id)),
            "deploy_log": str(places.deploy_log(task_id, agent_id)),
        },
    }


def _entry(
    agent_id: str, task_id: str, spec: AgentSpec, labels: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "type": spec.type,
        "parent": spec.parent,
        "started_at": timestamp(),
        "tmux_session": ids.session_of(agent_id),
        "key": spec.key,
        "deadline_at": labels["deadline_at"],
    }


def _deploy_log(agent_id: str, task_id: str, spec: AgentSpec, world: World) -> dict[str, Any]:
    """Return how it was deployed, without its prompt, its arguments and its environment."""
    return {
        "agent_id": agent_id,
        "task_id": task_id,
        "type": spec.type,
        "parent": spec.parent,
        "deployed_at": timestamp(),
        "tmux_session": ids.session_of(agent_id),
        "tmux_socket": str(world.socket),
        "program": spec.program(),
        "arguments": len(spec.command) - 1,
        "cwd": str(spec.directory()),
        "deployer_pid": os.getpid(),
    }


def _heir(root: Path, agent_id: str) -> list[str]:
    """Return the command of the unwinder that the supervisor becomes."""
    return [sys.executable, "-m", "orchestrator_core", "--root", str(root), "unwind", agent_id]


def _heir_environment() -> dict[str, str]:
    """Return what the unwinder needs of our environment; no secret is among it."""
    kept = ("HOME", "LANG", "LC_ALL", "PATH", "USER", "VIRTUAL_ENV", "ORCHESTRATOR_CONTAINMENT")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    # Wherever we were imported from, it is to be found there again.
    places = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a string is wanted
    return {**env, "PYTHONPATH": os.pathsep.join(places)}
