"""What is written of an agent when it is deployed: its record, its entry, its deploy log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.model import ids
from orchestrator_core.model.status import Status
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.spec import AgentSpec

_EXCERPT = 200  #: Characters of the prompt that its record shows.


def new_record(
    agent_id: str, task_id: str, spec: AgentSpec, context: RootContext, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an agent's record, as its task's registry is to have it first."""
    layout, now = context.layout, timestamp()
    return {
        "id": agent_id,
        "type": spec.type,
        "tmux_session": ids.session_name(agent_id),
        "parent": spec.parent,
        "depth": 1,  # more, where the parent's is known: under the registry's lock
        "status": Status.RUNNING.value,
        "started_at": now,
        "progress": 0,
        "last_update": now,
        "prompt": spec.prompt[:_EXCERPT],
        "key": spec.key,
        "preset": spec.preset,
        "deadline_at": labels["deadline_at"],
        "tracked_files": {
            "prompt_file": str(layout.prompt(task_id, agent_id)),
            "log_file": str(layout.log(task_id, agent_id)),
            "progress_file": str(layout.progress(task_id, agent_id)),
            "findings_file": str(layout.findings(task_id, agent_id)),
            "deploy_log": str(layout.deploy_log(task_id, agent_id)),
        },
    }


def new_entry(
    agent_id: str, task_id: str, spec: AgentSpec, labels: Mapping[str, Any]
) -> dict[str, Any]:
    """Return its entry among the living of its root."""
    return {
        "task_id": task_id,
        "type": spec.type,
        "parent": spec.parent,
        "started_at": timestamp(),
        "tmux_session": ids.session_name(agent_id),
        "key": spec.key,
        "deadline_at": labels["deadline_at"],
    }


def new_deploy_log(
    agent_id: str, task_id: str, spec: AgentSpec, context: RootContext, *, provided: bool
) -> dict[str, Any]:
    """
    Return how it was deployed, without its prompt, its arguments and its environment.

    Where it runs is added when it is known: a step may provide that.
    """
    return {
        "agent_id": agent_id,
        "task_id": task_id,
        "type": spec.type,
        "parent": spec.parent,
        "deployed_at": timestamp(),
        "tmux_session": ids.session_name(agent_id),
        "tmux_socket": str(context.socket),
        "program": spec.program(provided=provided),
        "arguments": len(spec.command) - 1,
        "cwd": "",
        "deployer_pid": os.getpid(),
    }
