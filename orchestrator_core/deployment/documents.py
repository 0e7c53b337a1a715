"""The documents of a new agent: its record, its entry in the global registry, its deploy log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orchestrator_core.model import ids
from orchestrator_core.model.status import Status
from orchestrator_core.system.clock import timestamp

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.model.spec import AgentSpec

_EXCERPT_LENGTH = 200  #: Characters of the prompt that the record shows.
_ENTRY_FIELDS = ("type", "parent", "started_at", "tmux_session", "key", "deadline_at")


def new_record(
    context: RootContext,
    task_id: str,
    agent_id: str,
    spec: AgentSpec,
    *,
    depth: int,
    deadline_at: float | None,
) -> dict[str, Any]:
    """Return an agent's first record in its task's registry. *depth* is the least possible one."""
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


def new_entry(task_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a new agent among the live agents of its root."""
    return {"task_id": task_id, **{name: record[name] for name in _ENTRY_FIELDS}}


def new_deploy_log(
    context: RootContext, task_id: str, agent_id: str, spec: AgentSpec, *, extra_steps: bool
) -> dict[str, Any]:
    """
    Return how an agent is deployed, without its prompt, its arguments and its environment.

    ``cwd`` is filled in when it is known, since an extra step may provide it.

    Raises:
        InvalidInput: The spec's program cannot be found.
    """
    return {
        "agent_id": agent_id,
        "task_id": task_id,
        "type": spec.type,
        "parent": spec.parent,
        "deployed_at": timestamp(),
        "tmux_session": ids.session_name(agent_id),
        "tmux_socket": str(context.socket),
        "program": spec.program(provided=extra_steps),
        "arguments": len(spec.command) - 1,
        "cwd": "",
        "deployer_pid": os.getpid(),
    }
