"""What a deployment writes of its agent: the record, the deploy log and the launch file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.model import environment, ids
from orchestrator_core.model.status import Status
from orchestrator_core.supervisor import process_attributes
from orchestrator_core.supervisor.launch import UNWIND, Launch
from orchestrator_core.system import paths
from orchestrator_core.system.clock import timestamp
from orchestrator_core.system.import_path import isolated_command
from orchestrator_core.system.processes.table import UNWINDER_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.steps.base import DeploymentInputs

_EXCERPT_LENGTH = 200  #: Characters of the prompt that the record shows.
_UNWINDER_VARIABLES = (
    *("HOME", "LANG", "LC_ALL", "PATH", "USER", "VIRTUAL_ENV"),
    *("ORCHESTRATOR_CONTAINMENT", "TMUX_TMPDIR", "XDG_CONFIG_HOME"),
)


def new_record(
    context: RootContext, inputs: DeploymentInputs, *, depth: int, deadline_at: float | None
) -> dict[str, Any]:
    """Return an agent's first record in its task's registry. *depth* is the least possible one."""
    task_id, agent_id, spec = inputs.task_id, inputs.agent_id, inputs.spec
    layout, now = context.layout, timestamp()
    return {
        "id": agent_id,
        "type": spec.type,
        "tmux_session": ids.session_name(agent_id),
        "parent": spec.parent,
        "depth": depth,
        "status": Status.RUNNING.value,
        "started_at": now,
        "progress": 0,
        "last_update": now,
        "prompt": spec.prompt[:_EXCERPT_LENGTH],
        "key": spec.key,
        "preset": spec.preset,
        "deadline_at": deadline_at,
        "tracked_files": {
            "prompt_file": str(layout.prompt(task_id, agent_id)),
            "log_file": str(layout.log(task_id, agent_id)),
            "progress_file": str(layout.progress(task_id, agent_id)),
            "findings_file": str(layout.findings(task_id, agent_id)),
            "deploy_log": str(layout.deploy_log(task_id, agent_id)),
        },
    }


def new_deploy_log(context: RootContext, inputs: DeploymentInputs, *, cwd: str) -> dict[str, Any]:
    """Return how an agent is deployed, without its prompt, its arguments and its environment."""
    agent_id, spec = inputs.agent_id, inputs.spec
    return {
        "agent_id": agent_id,
        "task_id": inputs.task_id,
        "type": spec.type,
        "parent": spec.parent,
        "deployed_at": timestamp(),
        "tmux_session": ids.session_name(agent_id),
        "tmux_socket": str(context.socket),
        "program": inputs.program,
        "arguments": len(spec.command) - 1,
        "cwd": cwd,
        "deployer_pid": os.getpid(),
    }


# --- the launch file: what the supervisor runs, and the unwinder that it becomes ------------------


def build_launch(context: RootContext, inputs: DeploymentInputs) -> Launch:
    """Return what the supervisor reads, with all that the extra steps have provided by now."""
    layout, spec = context.layout, inputs.spec
    task_id, agent_id = inputs.task_id, inputs.agent_id
    run = layout.run_dir(task_id, agent_id)
    prompt = layout.prompt(task_id, agent_id)
    provision = None if inputs.provisions is None else inputs.provisions.merged
    placeholders = {
        **(provision.placeholders if provision else {}),
        "prompt_file": str(prompt),
        "prompt": spec.prompt,
        "agent_id": agent_id,
        "task_id": task_id,
        "workspace": str(layout.task(task_id)),
    }
    variables = {
        **(provision.environment if provision else {}),
        environment.ENV_ROOT: str(layout.root),
        environment.ENV_AGENT: agent_id,
        environment.ENV_TASK: task_id,
        environment.ENV_COOKIE: ids.process_cookie(context.root_id, agent_id),
    }
    provided = provision.cwd if provision and spec.cwd is None else None
    cwd = provided or str(spec.directory())
    if "PWD" not in spec.env:
        variables["PWD"] = cwd  # Some programs believe it more than the kernel.
    return Launch(
        journal=str(layout.journal(agent_id)),
        log=str(layout.log(task_id, agent_id)),
        exit_file=f"{run}/exit",
        events=f"{run}/events",
        argv=spec.argv(placeholders),
        env=spec.environment(variables),
        cwd=cwd,
        stdin=str(prompt) if spec.stdin else os.devnull,
        attributes=process_attributes.current(),
        cgroup=context.processes.cgroup_path(ids.cgroup_name(context.root_id, agent_id)),
        term_s=context.patience.term_s,
        kill_s=context.patience.kill_s,
        linger_s=context.linger_s(spec),
        deadline_s=spec.deadline_s,
        sweeper_lock=str(layout.sweeper_lock),
        unwinder_argv=unwinder_argv(layout.root, agent_id),
        secret=inputs.secret,
        unwinder_env=unwinder_env() | {UNWINDER_NAME: variables[environment.ENV_COOKIE]},
        rescue_dirs=[str(directory) for directory in paths.user_directories()],
    )


def unwinder_argv(root: Path, agent_id: str) -> list[str]:
    """Return the command of the unwinder that the supervisor becomes."""
    return isolated_command("--root", str(root), UNWIND, agent_id)


def unwinder_env() -> dict[str, str]:
    """Return the unwinder's environment, without secrets."""
    return {name: os.environ[name] for name in _UNWINDER_VARIABLES if name in os.environ}
