"""The base of a deployment's steps: the root's context, and the inputs of one deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.saga import Presence, Step
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.deployment.terminator import Terminator
    from orchestrator_core.model.spec import AgentSpec
    from orchestrator_core.resources.provision import ProvisionCollector
    from orchestrator_core.saga import Context


@attrs.frozen
class DeploymentInputs:
    """The inputs of one deployment's steps. No journal ever holds them."""

    task_id: str
    agent_id: str
    spec: AgentSpec = attrs.field(repr=False)  #: With the prompt and the environment.
    program: str  #: The command's program, or its placeholder.
    provisions: ProvisionCollector | None = None  #: From extra steps, which fill it when done.


@attrs.frozen
class DeploymentStep(Step[Any]):
    """
    A step of a deployment.

    ``plan`` needs only the agent's id, which is the saga's, and ``task_id`` among the
    context's values. ``do`` needs the inputs as well.
    """

    context: RootContext
    deployment: DeploymentInputs | None = None
    terminator: Terminator | None = None  #: For the step that holds the children.

    @property
    def inputs(self) -> DeploymentInputs:
        """The inputs of the deployment to do; an undo needs none."""
        if self.deployment is None:
            raise RuntimeError(f"{type(self).__name__} was created to undo, not to do")
        return self.deployment


def task_and_agent(ctx: Context) -> tuple[str, str]:
    """Return the ids of the task and of the agent, from which all names are derived."""
    return ctx.values["task_id"], ctx.saga_id


def presence(path: str) -> Presence:
    """Return whether there is a file at *path*; OURS if so, since no one else uses the name."""
    return Presence.OURS if durable.exists(path) else Presence.ABSENT
