"""
The six steps of a deployment.

================ ======================================= =====================================
step             do                                      undo
================ ======================================= =====================================
write_prompt     the prompt file                         delete it
tee_log          the log, and the supervisor's files     archive it, or delete it
spawn_tmux       one session, waiting at its gate        end every process, then the session
accept_children  nothing: children come later            end them first, or release them
register_task    the record in the task's registry       its final status, or remove it
register_global  the record in the global registry       remove it
================ ======================================= =====================================

The order matters. The log is opened before the session starts, so that it is archived
after its last writer is gone. The registries come last and are undone first: a registry
never shows an agent that is being torn down, and no agent becomes its child while its
children are being ended. Extra steps (:mod:`orchestrator_core.resources`) come before all
of these, and are undone after them.

Names are derived from the agent's id, so an undo finds all that the id could own, however
far the deployment came. The prompt and the environment, which no journal may hold, are in
the :class:`~.base.DeploymentInputs`, which only ``do`` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator_core.deployment.steps.registries import OwnChildren, RegisterGlobal, RegisterTask
from orchestrator_core.deployment.steps.session import OpenLog, SpawnTmux, WritePrompt

if TYPE_CHECKING:
    from orchestrator_core.deployment.steps.base import DeploymentStep

#: In the order of a deployment.
STEPS: tuple[type[DeploymentStep], ...] = (
    WritePrompt,
    OpenLog,
    SpawnTmux,
    OwnChildren,
    RegisterTask,
    RegisterGlobal,
)
