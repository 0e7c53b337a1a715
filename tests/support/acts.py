"""The acts of test processes: calls of the library with JSON results."""

from __future__ import annotations

import os

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.deployment.deployer import resolve_lineage
from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.limits import Limits
from orchestrator_core.system.processes.protocol import GracePeriods

PATIENCE = GracePeriods(term_s=0.5, kill_s=2.0, linger_s=0.3)


def opened(root, *, recover=False, limits=None, **how):
    """Return an orchestrator with short grace periods."""
    how.setdefault("patience", PATIENCE)
    return Orchestrator(root, recover=recover, limits=Limits(**(limits or {})), **how)


def create_task(root, **how):
    return opened(root, **how).create_task("tried").id


def deploy(root, task, command, *, type="a", prompt="do it", grace_s=0.0, how=None, **spec):  # noqa: A002 - a spec's word
    orch = opened(root, **(how or {}))
    made = AgentSpec(type=type, prompt=prompt, command=command, **spec)
    return orch.deploy(task, made, grace_s=grace_s).id


def deploy_in_worktree(root, task, repository):
    from orchestrator_core.resources import GitWorktree  # noqa: PLC0415 - one act's

    made = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])
    return opened(root).deploy(task, made, extra_steps=[GitWorktree(repository)]).id


def deploy_with_helper(root, task):
    from orchestrator_core.resources import Subprocess  # noqa: PLC0415 - as above

    made = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])
    return opened(root).deploy(task, made, extra_steps=[Subprocess(["sleep", "1000"])]).id


def deploy_and_end(root, task, times):
    agents = (deploy(root, task, ["sleep", "1000"]) for _ in range(times))
    return [terminate(root, agent)["success"] for agent in agents]


def deploy_with_path(root, task, command, path):
    """Deploy with another PATH, which may lead to another tmux."""
    os.environ["PATH"] = path
    return deploy(root, task, command)


def deploy_unseeing(root, task, command, *, how=None, **spec):
    """Deploy without the precheck of limits, as after a lost race for the last place."""
    orch = opened(root, **(how or {}))
    orch._deployer._precheck = lambda request: resolve_lineage(
        orch._context, request.task_id, request.spec
    )
    return orch.deploy(task, AgentSpec(type="a", prompt="p", command=command, **spec)).id


def terminate(root, agent, **how):
    return opened(root, **how).terminate(agent, reason="tried").to_dict()


def report(root, agent, status="completed", **how):
    return opened(root, **how).report_progress(agent, status, message="tried").to_dict()


def update(root, agent, times):
    orch = opened(root)
    return [
        orch.report_progress(agent, "working", progress=number).recorded for number in range(times)
    ]


def recover(root, **how):
    found = opened(root, **how).recover(force=True)
    left = {"alive": found.alive, "busy": found.busy, "failed": found.failed}
    return {"unwound": sorted(found.unwound), **left}


def sweep(root, **how):
    return opened(root, **how).sweep(reap=True).to_dict()


def recover_often(root, times):
    """Return the sagas that were unwound or could not be recovered."""
    found = [recover(root) for _ in range(times)]
    return [saga for one in found for saga in (*one["unwound"], *one["failed"])]


def finish(root, agent, **how):
    return opened(root, **how).finish(agent).to_dict()


def use(root, task):
    """Make the usual calls once, so that their cleanups are done."""
    orch = opened(root, recover=True)
    orch.create_task("another")
    agent = orch.deploy(task, AgentSpec(type="u", prompt="p", command=["sleep", "1000"]))
    orch.report_progress(agent.id, "working")
    return orch.terminate(agent.id, reason="done").success


_ALL = (
    *(
        create_task,
        deploy,
        deploy_unseeing,
        deploy_with_path,
        deploy_in_worktree,
        deploy_with_helper,
        deploy_and_end,
        terminate,
        report,
        update,
    ),
    *(recover, recover_often, sweep, finish, use),
)
ACTS = {act.__name__: act for act in _ALL}


def perform(name, args):
    """Return the result of an act, or its error, as JSON-safe values."""
    try:
        return {"result": ACTS[name](**args)}
    except OrchestratorError as error:
        return {"error": error.code, "details": error.to_dict()}
