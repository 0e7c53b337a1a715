"""
The six steps of a deployment.

================ ======================================= =====================================
step             do                                      undo
================ ======================================= =====================================
write_prompt     the prompt file                         delete it
tee_log          the log, and the supervisor's files     archive it, or delete it
spawn_tmux       one session, waiting at its gate        end every process, then the session
accept_children  nothing: they come by themselves        end them first, or let them go
register_task    the record in the task's registry       its final status, or remove it
register_global  the record in the global registry       remove it
================ ======================================= =====================================

The order is the point. The log is opened before the session starts, so that it
is sealed after its last writer is gone. The registries come last and go first:
nobody is told of an agent that is being torn down, and nobody becomes its child
when its children are being ended. Steps of one's own (:mod:`orchestrator_core.resources`)
come before all of these, and are undone after them.

Names are derived from the agent's id, so an undo finds all that the id could
own, whatever of it came to be. What must not be written down (the prompt, the
environment) is in the :class:`Deployment`, which only ``do`` sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_core.deployment.steps.children import ChildrenReceipt, OwnChildren
from orchestrator_core.deployment.steps.files import (
    LogReceipt,
    OpenLog,
    PromptReceipt,
    WritePrompt,
)
from orchestrator_core.deployment.steps.registries import (
    GlobalReceipt,
    RegisterGlobal,
    RegisterTask,
    TaskReceipt,
    final_status,
)
from orchestrator_core.deployment.steps.session import SessionReceipt, SpawnTmux

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.steps.base import DeploymentInputs
    from orchestrator_core.saga import Step

__all__ = [
    "AcceptChildren",
    "ChildrenReceipt",
    "Deployment",
    "GlobalReceipt",
    "LogReceipt",
    "PromptReceipt",
    "RegisterGlobal",
    "RegisterTask",
    "SessionReceipt",
    "SpawnTmux",
    "TaskReceipt",
    "TeeLog",
    "WritePrompt",
    "deployment_steps",
    "final_status",
    "undoing_steps",
]

_KINDS = (WritePrompt, OpenLog, SpawnTmux, OwnChildren, RegisterTask, RegisterGlobal)


def deployment_steps(context: RootContext, deployment: DeploymentInputs) -> list[Step[Any]]:
    """Return the steps that deploy one agent, in order."""
    return [kind(context, deployment) for kind in _KINDS]


def undoing_steps(context: RootContext) -> list[Step[Any]]:
    """Return steps that can undo and probe any agent of this root, and deploy none."""
    return [kind(context) for kind in _KINDS]
