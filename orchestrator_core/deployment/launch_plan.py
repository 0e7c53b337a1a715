"""What one deployment brings to its steps: what the supervisor is to run, and how it goes on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestrator_core.deployment.documents import new_deploy_log
from orchestrator_core.deployment.steps.base import DeploymentInputs
from orchestrator_core.model import environment as inside
from orchestrator_core.model import ids
from orchestrator_core.model.spec import PLACEHOLDERS
from orchestrator_core.supervisor.launch import Launch

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.resources.provision import ProvisionCollector


def build_inputs(
    context: RootContext,
    task_id: str,
    agent_id: str,
    spec: AgentSpec,
    provided: ProvisionCollector | None = None,
) -> DeploymentInputs:
    """
    Return what the steps need to deploy an agent, its prompt and its environment included.

    *provided* is what steps of one's own hand on to it, when they have been done; None if
    there are none.
    """
    run = context.layout.run_dir(task_id, agent_id)
    return DeploymentInputs(
        prompt=spec.prompt,
        events=f"{run}/events",
        launch_file=f"{run}/launch",
        launch=lambda: _launch(context, task_id, agent_id, spec, provided),
        deploy_log=new_deploy_log(agent_id, task_id, spec, context, provided=provided is not None),
    )


def new_provisions(spec: AgentSpec) -> ProvisionCollector:
    """Return what steps of one's own have handed on to an agent so far: nothing."""
    from orchestrator_core.resources.provision import ProvisionCollector  # noqa: PLC0415 - few have any

    return ProvisionCollector(
        reserved_variables=inside.RESERVED_ENV | inside.HIDDEN_ENV | spec.env.keys(),
        reserved_placeholders=frozenset(PLACEHOLDERS),
    )


def _launch(
    context: RootContext,
    task_id: str,
    agent_id: str,
    spec: AgentSpec,
    provided: ProvisionCollector | None,
) -> Launch:
    layout = context.layout
    run = layout.run_dir(task_id, agent_id)
    prompt = layout.prompt(task_id, agent_id)
    provision = provided.merged if provided is not None else None
    values = {
        **(provision.placeholders if provision is not None else {}),
        "prompt_file": str(prompt),
        "agent_id": agent_id,
        "task_id": task_id,
        "workspace": str(layout.task(task_id)),
    }
    own = {
        inside.ENV_ROOT: str(layout.root),
        inside.ENV_AGENT: agent_id,
        inside.ENV_TASK: task_id,
        inside.ENV_COOKIE: ids.process_cookie(context.root_id, agent_id),
    }
    cwd = provision.cwd if provision is not None and spec.cwd is None else None
    return Launch(
        journal=str(layout.journal(agent_id)),
        log=str(layout.log(task_id, agent_id)),
        exit_file=f"{run}/exit",
        events=f"{run}/events",
        argv=spec.argv(values),
        env=spec.environment({**(provision.environment if provision is not None else {}), **own}),
        cwd=cwd or str(spec.directory()),
        stdin=str(prompt) if spec.stdin else os.devnull,
        cgroup=context.processes.cgroup_path(ids.cgroup_name(context.root_id, agent_id)),
        term_s=context.patience.term_s,
        kill_s=context.patience.kill_s,
        linger_s=context.patience.linger_s,
        deadline_s=spec.deadline_s,
        sweeper_lock=str(layout.sweeper_lock),
        unwinder_argv=unwinder_argv(layout.root, agent_id),
        unwinder_env=unwinder_env(),
    )


def unwinder_argv(root: Path, agent_id: str) -> list[str]:
    """Return the command of the unwinder that the supervisor becomes."""
    return [sys.executable, "-m", "orchestrator_core", "--root", str(root), "unwind", agent_id]


def unwinder_env() -> dict[str, str]:
    """Return what the unwinder needs of our environment; no secret is among it."""
    kept = (
        *("HOME", "LANG", "LC_ALL", "PATH", "USER", "VIRTUAL_ENV"),
        *("ORCHESTRATOR_CONTAINMENT", "TMUX_TMPDIR"),
    )
    env = {name: os.environ[name] for name in kept if name in os.environ}
    # Wherever we were imported from, it is to be found there again.
    places = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a string is wanted
    return {**env, "PYTHONPATH": os.pathsep.join(places)}
