"""
The deployer: from a spec to a running agent, or to nothing at all.

1. *Precheck*: all that can be refused without taking anything is refused.
2. *Plan*: the steps are planned, and their intents are durable.
3. *Run*: the steps are done. The supervisor waits at its gate.
4. *Commit*: the commit is durable, and the release of the journal's lock opens the gate.
5. *Wait until started*: the agent runs, and has survived its grace.

An error in 3 to 5 undoes all of it. The supervisor's events are not state: under the
agent's lock, as for every other end, the terminator decides whether a deployment failed
after its commit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment import cancellation
from orchestrator_core.deployment.documents import new_record
from orchestrator_core.deployment.steps import STEPS
from orchestrator_core.deployment.steps.base import DeploymentInputs
from orchestrator_core.deployment.steps.session import LogReceipt, SessionReceipt
from orchestrator_core.exceptions import (
    DeploymentError,
    InvalidInput,
    LimitReached,
    NotFound,
    OrchestratorError,
    SagaExists,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.model import environment, ids
from orchestrator_core.model.environment import (
    ENV_AGENT,
    ENV_ROOT,
    ENV_TASK,
    HIDDEN_ENV,
    ORCHESTRATOR,
    RESERVED_ENV,
)
from orchestrator_core.model.outcome import terminal_reason
from orchestrator_core.model.records import Agent
from orchestrator_core.model.spec import PLACEHOLDERS, AgentSpec, deadline_labels
from orchestrator_core.model.status import Status
from orchestrator_core.registry.document import agent_entry
from orchestrator_core.registry.operations import (
    KeyTaken,
    check_global_limits,
    check_task_limits,
    depth_of,
    find_agent,
)
from orchestrator_core.resources.provision import ProvisionCollector, wrap_steps
from orchestrator_core.saga import Reason, Saga, State, Unwind, UnwindReport, step_name
from orchestrator_core.saga.unwinding import format_error
from orchestrator_core.system import paths
from orchestrator_core.system.event_reader import SupervisorEvents
from orchestrator_core.system.interpreter import find_python
from orchestrator_core.system.names import check_id
from orchestrator_core.system.seconds import check_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.saga import Step

_START_TIMEOUT_S = 10.0  #: From the open gate to the agent's first instruction.
_MAX_RETRIES = 3  #: After a key's holder turned out to be dead, or a random id was taken.

#: The resource of each step, in the words of the tools that people have.
_RESOURCES = {
    "write_prompt": "prompt_file",
    "tee_log": "log_files",
    "spawn_tmux": "tmux_session",
    "accept_children": "children",
    "register_task": "task_registry",
    "register_global": "global_registry",
}


@attrs.frozen
class _Request:
    """The arguments of one call."""

    task_id: str
    spec: AgentSpec
    grace_s: float
    extra_steps: Sequence[Step[Any]] = ()


class Deployer:
    """The deployment of agents below one root."""

    def __init__(self, context: RootContext, terminator: Terminator, *, timeout_s: float) -> None:
        self._context = context
        self._terminator = terminator
        self._timeout_s = timeout_s

    def deploy(
        self, task_id: str, spec: AgentSpec, *, grace_s: float, extra_steps: Sequence[Step[Any]]
    ) -> Agent:
        """Deploy an agent, or return the live one under the spec's key; see the facade."""
        grace_s = check_seconds("grace_s", grace_s)
        if not isinstance(spec, AgentSpec):
            raise InvalidInput(
                f"the spec must be an AgentSpec, not {type(spec).__name__}",
                hint="AgentSpec(type=…, prompt=…, command=[…])",
            )
        for step in extra_steps:
            self._terminator.steps.require_known(step)
            _check_variables(step, spec)
        task_id, agent_id = self._deploy_or_find(_Request(task_id, spec, grace_s, extra_steps))
        try:
            return self._read_agent(task_id, agent_id)
        except BaseException:
            if spec.key is None:  # With a key, the agent may have lived before.
                why = terminal_reason(
                    Status.TERMINATED, "its deployer was interrupted", by="terminate"
                )
                self._terminator.terminate(agent_id, why, timeout_s=self._timeout_s)
            raise

    def _read_agent(self, task_id: str, agent_id: str) -> Agent:
        record = find_agent(self._context.task_registry(task_id).read(), agent_id)
        if record is None:
            raise NotFound(f"there is no agent {agent_id!r}")
        return Agent.from_record(task_id, record)

    def _deploy_or_find(self, request: _Request) -> tuple[str, str]:
        """Return task and id of a new agent, or those of the live one under the spec's key."""
        for _ in range(_MAX_RETRIES):
            try:
                return request.task_id, self._attempt(request)
            except KeyTaken as taken:
                if self._key_holder_is_alive(taken.agent_id):
                    return taken.task_id, taken.agent_id
            except SagaExists:
                pass  # The random id was used before; nothing was taken.
        return request.task_id, self._attempt(request)

    def _attempt(self, request: _Request) -> str:
        parent, min_depth = self._precheck(request)
        saga = self._plan(request, parent, min_depth)
        try:
            with saga:
                saga.run()
                log = saga.receipt(LogReceipt)
                with SupervisorEvents(log.events, log.log) as events:
                    self._commit(saga)
                    self._wait_until_started(saga, events, grace_s=request.grace_s)
        except BaseException as error:
            report = saga.report or self._roll_back(saga, error)
            step_names = [frame.name for frame in saga.history.stack]
            failure = _to_error(error, saga.saga_id, report, step_names)
            if failure is error:
                raise
            raise failure from error
        return saga.saga_id

    def _key_holder_is_alive(self, agent_id: str) -> bool:
        """
        Return whether the holder of a key is alive, after its deployment if that goes on.

        A holder whose deployer died is recovered, which frees the key.
        """
        try:
            with self._terminator.sagas.open(agent_id, timeout_s=self._timeout_s) as saga:
                if saga.state is State.COMMITTED:
                    return True
            self._terminator.recover(only=agent_id)
        except SagaNotFound:
            pass  # It has ended.
        return False

    # --- precheck: before anything is taken -----------------------------------------------------

    def _precheck(self, request: _Request) -> tuple[str, int]:
        """
        Refuse what can be refused now, and return the agent's parent and least depth.

        Limits and key are read without a lock: the registries check both again under theirs.

        Raises:
            KeyTaken: An agent lives under the spec's key.
            InvalidInput, NotFound, LimitReached, TerminalUnavailable: See deploy.
        """
        spec, limits = request.spec, self._context.limits
        find_python()
        parent, min_depth = resolve_lineage(self._context, request.task_id, spec)
        spec.directory()
        document = self._context.task_registry(request.task_id).read()
        self._context.global_registry.restore()
        everyone = self._context.global_registry.read()
        try:
            check_global_limits(everyone, spec.key, limits)
        except LimitReached:
            ended = self._context.predecessor.ended_entries()
            check_global_limits(everyone, spec.key, limits, excluded=ended)
        check_task_limits(document, parent, limits, min_depth=min_depth)
        self._context.check_terminal()
        return parent, min_depth

    # --- plan: the intents are durable -----------------------------------------------------------

    def _plan(self, request: _Request, parent: str, min_depth: int) -> Saga:
        context, task_id = self._context, request.task_id
        spec = attrs.evolve(request.spec, parent=parent, linger_s=context.linger_s(request.spec))
        inputs, extra_steps = _inputs(request, spec)
        agent_id = inputs.agent_id
        labels = {
            "task_id": task_id,
            "type": spec.type,
            "preset": spec.preset,
            "parent": spec.parent,
            "grace_s": min(request.grace_s, sys.float_info.max),  # JSON has no infinity.
            "silent_after_s": spec.silent_after_s,
            **deadline_labels(spec.deadline_s),
        }
        record = new_record(context, inputs, depth=min_depth, deadline_at=labels["deadline_at"])
        values = {
            "task_id": task_id,
            "record": record,
            "entry": agent_entry(task_id, record),
            "root_id": context.root_id,
            "workspace": str(context.layout.task(task_id)),
            "held": str(context.layout.resource_dir(agent_id)),
        }
        # The extra steps first: undone last, when no process uses what they hold.
        steps = [*extra_steps, *(step(context, inputs, self._terminator) for step in STEPS)]
        try:
            return self._terminator.sagas.begin(agent_id, steps, values=values, labels=labels)
        except StorageError as error:
            nothing = UnwindReport(agent_id, Unwind.rollback(format_error(error)), (), closed=True)
            raise _to_error(error, agent_id, nothing, ()) from error

    # --- commit, and wait until started -----------------------------------------------------------

    def _commit(self, saga: Saga) -> None:
        """Make the deployment durable, and open the supervisor's gate."""
        saga.commit()
        saga.release()
        if (scope := cancellation.current.scope) is not None:
            scope.set_agent(saga.saga_id)

    def _wait_until_started(self, saga: Saga, events: SupervisorEvents, *, grace_s: float) -> None:
        """
        Wait until the agent runs, and through its grace.

        Raises:
            DeploymentError: It did not start, and is still to be undone.
            _DiedInGrace: It never ran, or died early, and has been undone.
        """
        event = self._next_event(saga, events, {"started", "refused"}, _START_TIMEOUT_S)
        if event is None:
            raise DeploymentError(
                f"the agent's supervisor did not answer within {_START_TIMEOUT_S:g} s"
            )
        if event == "started":
            if not grace_s:
                return
            event = self._next_event(saga, events, {"exited"}, grace_s)
        elif event == "refused":
            # The supervisor writes the exit record, which decides the grace, after this event.
            event = self._next_event(saga, events, {"exited"}, _START_TIMEOUT_S)
        if event == "supervisor-exited":
            raise DeploymentError("the agent's supervisor was killed")
        report = self._terminator.decide_grace(saga.saga_id, timeout_s=self._timeout_s)
        if report is not None and report.why.reason is not Reason.TERMINAL:
            raise _DiedInGrace(report, events.output_tail())

    def _next_event(
        self, saga: Saga, events: SupervisorEvents, expected: set[str], timeout_s: float
    ) -> str | None:
        return events.wait_for(
            expected,
            processes=self._context.processes,
            supervisor=saga.receipt(SessionReceipt).supervisor,
            timeout_s=timeout_s,
        )

    def _roll_back(self, saga: Saga, error: BaseException) -> UnwindReport | None:
        """Undo a deployment that failed after its commit; None if that could not be done."""
        if isinstance(error, _DiedInGrace):
            return error.report
        why = Unwind.rollback(format_error(error), error=type(error).__name__)
        try:
            return self._terminator.sagas.unwind(saga.saga_id, why, timeout_s=self._timeout_s)
        except OrchestratorError as trouble:
            error.add_note(f"and it could not be undone: {trouble}")
            return None


def _check_variables(step: Step[Any], spec: AgentSpec) -> None:
    clash = spec.env.keys() & getattr(step, "excluded_variables", frozenset())
    if clash:
        raise InvalidInput(
            f"the spec sets {', '.join(sorted(clash))}, which contradicts the step "
            f"{step_name(step)!r}",
            hint="remove the variable from the spec's env",
        )


def _inputs(request: _Request, spec: AgentSpec) -> tuple[DeploymentInputs, Sequence[Step[Any]]]:
    """
    Return the inputs of a new agent's steps, and the extra steps that fill them.

    Raises:
        InvalidInput: The spec's program cannot be found.
    """
    agent_id = ids.new_agent_id(spec.type)
    extra_steps, provisions = request.extra_steps, None
    if extra_steps:
        provisions = ProvisionCollector(
            reserved_variables=RESERVED_ENV | HIDDEN_ENV | spec.env.keys(),
            reserved_placeholders=frozenset(PLACEHOLDERS),
        )
        extra_steps = wrap_steps(extra_steps, provisions)
    program = spec.program(provided=bool(extra_steps))
    return DeploymentInputs(request.task_id, agent_id, spec, program, provisions), extra_steps


class _DiedInGrace(Exception):
    """The agent never ran, or died within its grace; it has been undone."""

    def __init__(self, report: UnwindReport, output: str) -> None:
        super().__init__(report.why.message)
        self.report = report
        self.output = output


def _to_error(
    error: BaseException, agent_id: str, report: UnwindReport | None, step_names: Sequence[str]
) -> BaseException:
    """Return the caller's own interrupt, or an error that says what is left."""
    if not isinstance(error, Exception):
        return error
    if isinstance(error, KeyTaken) and report is not None and report.closed:
        return error
    cleaned, leaked = _cleaned_and_leaked(report, step_names)
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


def _cleaned_and_leaked(
    report: UnwindReport | None, step_names: Sequence[str]
) -> tuple[dict[str, bool], list[str]]:
    """Return which resources were given back, and which of *step_names* may still hold one."""
    if report is None:
        return {}, [_RESOURCES.get(step, step) for step in step_names]
    cleaned = {_RESOURCES.get(step.step, step.step): not step.failed for step in report.steps}
    failed = [(_RESOURCES.get(step.step, step.step), step.error) for step in report.failed]
    return cleaned, [f"{name}: {error}" for name, error in failed]


# --- the lineage of a new agent: its parent, and its least depth below the orchestrator -----------
#
# A process inside an agent deploys that agent's children, by default and without an argument.
# The depth counts from the agent around the deploying process, whatever parent or task it
# names: neither is a way around the limit.


def resolve_lineage(context: RootContext, task_id: str, spec: AgentSpec) -> tuple[str, int]:
    """
    Return the parent and the least depth of an agent that this process deploys for a task.

    Raises:
        NotFound: The environment names an agent around this process that its task lacks.
    """
    around = _current_agent(context)
    if around is None:
        return spec.parent or ORCHESTRATOR, 1
    own_task, own_id = around
    # A hierarchy is within one task: an agent has no parent in another.
    parent = spec.parent or (own_id if own_task == task_id else ORCHESTRATOR)
    record = find_agent(context.task_registry(own_task).read(), own_id)
    if record is None:
        raise NotFound(
            f"the environment says that this process is inside the agent {own_id!r}, "
            f"and its task {own_task!r} has no such agent",
            hint=f"unset {ENV_AGENT} if this process is not inside an agent",
        )
    return parent, depth_of(record) + 1  # A parent may be deeper.


def _current_agent(context: RootContext) -> tuple[str, str] | None:
    """Return the task and the id of the agent of this root around this process, if any."""
    root, task_id, agent_id = map(environment.variable, (ENV_ROOT, ENV_TASK, ENV_AGENT))
    if not (root and task_id and agent_id) or not _same_root(root, context.layout.root):
        return None
    return check_id("task", task_id), check_id("agent", agent_id)


def _same_root(named: str, root: Path) -> bool:
    try:
        return paths.resolve(Path(named)) == root
    except OSError:
        return False
