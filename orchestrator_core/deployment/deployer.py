"""
A deployment: from a spec to a running agent, or to nothing at all.

Everything that can be refused is refused first. Then the saga runs and commits,
and letting go of its journal opens the supervisor's gate. What is heard through
the events FIFO after that (started, refused, exited) is news only: the decision
that a deployment failed after its commit is made under the agent's lock, like
every other end.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.deployment import cancellation
from orchestrator_core.deployment.documents import new_entry, new_record
from orchestrator_core.deployment.launch_plan import build_inputs, new_provisions
from orchestrator_core.deployment.lineage import resolve_lineage
from orchestrator_core.deployment.steps import LogReceipt, SessionReceipt, deployment_steps
from orchestrator_core.exceptions import (
    DeploymentError,
    InvalidInput,
    LimitReached,
    OrchestratorError,
    SagaExists,
    SagaNotFound,
    StorageError,
)
from orchestrator_core.model import deadlines, ids
from orchestrator_core.reconcile.legacy.ended_entries import retry_without_ended
from orchestrator_core.registry.operations import (
    KeyTaken,
    check_global_limits,
    check_task_limits,
)
from orchestrator_core.resources.provision import wrap_steps
from orchestrator_core.saga import Reason, State, Unwind, UnwindReport
from orchestrator_core.saga.unwinding import format_error
from orchestrator_core.system.event_reader import SupervisorEvents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.lineage import Lineage
    from orchestrator_core.deployment.steps.base import DeploymentInputs
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.saga import Saga, Step
    from orchestrator_core.system.processes.protocol import Identity

_START_S = 10.0  #: From the open gate to the agent's first instruction.
_TRIES = 3  #: How often a key may be taken by an agent that turns out to be over, or an id.

#: What a deployment takes, in the words of the tools that people have.
_RESOURCES = {
    "write_prompt": "prompt_file",
    "tee_log": "log_files",
    "spawn_tmux": "tmux_session",
    "accept_children": "children",
    "register_task": "task_registry",
    "register_global": "global_registry",
}


class Deployer:
    """Deploys agents below one root."""

    def __init__(self, context: RootContext, terminator: Terminator, *, timeout_s: float) -> None:
        self._context = context
        self._terminator = terminator
        self._timeout_s = timeout_s

    def deploy(
        self,
        task_id: str,
        spec: AgentSpec,
        *,
        grace_s: float,
        extra_steps: Sequence[Step[Any]] = (),
    ) -> str:
        """Deploy an agent, and return its id; see :meth:`Orchestrator.deploy`."""
        if not 0 <= grace_s < math.inf:
            raise InvalidInput(f"a grace of {grace_s} s is no time")
        for step in extra_steps:
            self._terminator.steps.require_known(step)
        once = functools.partial(
            self._attempt, task_id, spec, grace_s=grace_s, extra_steps=extra_steps
        )
        for _ in range(_TRIES):
            try:
                return once()
            except KeyTaken as step_names:
                if self._key_holder_is_alive(step_names.agent_id):
                    return step_names.agent_id
            except SagaExists:
                pass  # Of all ids it was given one that was used before; nothing was taken.
        return once()

    def _attempt(
        self, task_id: str, spec: AgentSpec, *, grace_s: float, extra_steps: Sequence[Step[Any]]
    ) -> str:
        lineage = resolve_lineage(self._context, task_id, spec)
        agent_id = ids.new_agent_id(spec.type)
        spec = attrs.evolve(spec, parent=lineage.parent)
        provided = new_provisions(spec) if extra_steps else None
        inputs = build_inputs(self._context, task_id, agent_id, spec, provided)
        self._precheck(task_id, spec, lineage)
        steps = deployment_steps(self._context, inputs)
        if provided is not None:
            # First, and so undone last: when nothing of the agent runs that could use them.
            steps = [*wrap_steps(extra_steps, provided), *steps]
        self._run_saga(task_id, agent_id, spec, lineage, inputs, steps, grace_s=grace_s)
        return agent_id

    def _key_holder_is_alive(self, agent_id: str) -> bool:
        """
        Tell whether the holder of a key lives; wait for one that is being deployed.

        One whose deployer died is recovered, which frees the key.
        """
        try:
            with self._terminator.sagas.open(agent_id, timeout_s=self._timeout_s) as saga:
                if saga.state is State.COMMITTED:
                    return True
            self._terminator.recover(only=agent_id)
        except SagaNotFound:
            pass  # It is over.
        return False

    # --- before anything is taken --------------------------------------------------------------

    def _precheck(self, task_id: str, spec: AgentSpec, lineage: Lineage) -> None:
        """
        Refuse what can be refused now. A missing program was, when the deployment was prepared.

        The limits and the key are looked at without a lock: who is refused here
        would be refused there, and who slips through here is not let through there.

        Raises:
            KeyTaken: An agent lives under the spec's key.
            InvalidInput, NotFound, LimitReached, TerminalUnavailable: See deploy.
        """
        spec.directory()
        document = self._context.task_registry(task_id).read()
        everyone, limits = self._context.global_registry.read(), self._context.limits
        retry_without_ended(
            self._context,
            lambda over: check_global_limits(everyone, spec.key, limits, excluded=over),
        )
        check_task_limits(
            document, lineage.parent, self._context.limits, min_depth=lineage.min_depth
        )
        self._context.terminal.check()

    # --- the saga --------------------------------------------------------------------------------

    def _run_saga(
        self,
        task_id: str,
        agent_id: str,
        spec: AgentSpec,
        lineage: Lineage,
        inputs: DeploymentInputs,
        steps: Sequence[Step[Any]],
        *,
        grace_s: float,
    ) -> None:
        labels = {
            "task_id": task_id,
            "type": spec.type,
            "parent": spec.parent,
            "grace_s": grace_s,
            "silent_after_s": spec.silent_after_s,
            **deadlines.deadline_labels(spec.deadline_s),
        }
        record = new_record(agent_id, task_id, spec, self._context, labels)
        values = {
            "task_id": task_id,
            "record": {**record, "depth": lineage.min_depth},
            "entry": new_entry(agent_id, task_id, spec, labels),
            "root_id": self._context.root_id,
            "workspace": str(self._context.layout.task(task_id)),
            "held": str(self._context.layout.resource_dir(agent_id)),
        }
        try:
            saga = self._terminator.sagas.begin(agent_id, steps, values=values, labels=labels)
        except StorageError as error:
            nothing = UnwindReport(agent_id, Unwind.rollback(format_error(error)), (), closed=True)
            raise _to_error(error, agent_id, nothing, ()) from error
        try:
            with saga:
                saga.run()
                news = SupervisorEvents(inputs.events, saga.receipt(LogReceipt).log)
                with news:
                    saga.commit()
                    saga.release()
                    if (call := cancellation.current()) is not None:
                        call.set_agent(agent_id)
                    supervisor = saga.receipt(SessionReceipt).supervisor
                    self._wait_until_started(agent_id, supervisor, news, grace_s=grace_s)
        except BaseException as error:
            report = saga.report or self._roll_back(saga, error)
            step_names = [frame.name for frame in saga.history.stack]
            failure = _to_error(error, agent_id, report, step_names)
            if failure is error:
                raise
            raise failure from error

    # --- after the commit ------------------------------------------------------------------------

    def _wait_until_started(
        self, agent_id: str, supervisor: Identity | None, news: SupervisorEvents, *, grace_s: float
    ) -> None:
        """
        Wait until the agent runs, and through its grace.

        Raises:
            DeploymentError: It did not start, and is still to be undone.
            _Early: It never ran, or died early, and has been undone.
        """
        first_of = functools.partial(
            news.wait_for, processes=self._context.processes, supervisor=supervisor
        )
        heard = first_of({"started", "refused"}, timeout_s=_START_S)
        if heard is None:
            raise DeploymentError(f"the agent's supervisor did not answer within {_START_S:g} s")
        if heard == "started":
            if not grace_s:
                return
            heard = first_of({"exited"}, timeout_s=grace_s)
        elif heard == "refused":
            # That is said first, and written down, for settle to read, only then.
            heard = first_of({"exited"}, timeout_s=_START_S)
        if heard == "supervisor-exited":
            raise DeploymentError("the agent's supervisor was killed")
        report = self._terminator.decide_grace(agent_id, timeout_s=self._timeout_s)
        if report is not None and report.why.reason is not Reason.TERMINAL:
            raise _DiedInGrace(report, news.output_tail())

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


class _DiedInGrace(Exception):
    """The agent never ran, or died within its grace; it has been undone."""

    def __init__(self, report: UnwindReport, output: str) -> None:
        super().__init__(report.why.message)
        self.report = report
        self.output = output


def _to_error(
    error: BaseException, agent_id: str, report: UnwindReport | None, step_names: Sequence[str]
) -> BaseException:
    """Return what the caller is to see: his own interrupt, or an error that tells what is left."""
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
    """Return what was given back, and what may still be there, of the steps in *taken*."""
    if report is None:
        return {}, [_RESOURCES.get(step, step) for step in step_names]
    names = {step.step: _RESOURCES.get(step.step, step.step) for step in report.steps}
    cleaned = {names[step.step]: not step.failed for step in report.steps}
    return cleaned, [f"{names[step.step]}: {step.error}" for step in report.failed]
