"""What the steps of a deployment have in common: the world, and what is being deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.saga import Presence
from orchestrator_core.system import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator_core.deployment.context import RootContext
    from orchestrator_core.saga import Context
    from orchestrator_core.supervisor.launch import Launch


@attrs.frozen(kw_only=True)
class DeploymentInputs:
    """What one deployment brings to its steps, and no journal ever holds."""

    prompt: str = attrs.field(repr=False)
    events: str  #: The FIFO of the supervisor's news.
    launch_file: str
    #: What the supervisor is told; made when the steps of one's own have been done.
    launch: Callable[[], Launch] = attrs.field(repr=False)
    deploy_log: Mapping[str, Any]


@attrs.frozen
class DeploymentStep:
    """
    A step of a deployment.

    ``plan`` needs the ids alone: ``task_id`` among the context's values, and the
    agent's id, which is the saga's. ``do`` needs the deployment as well.
    """

    context: RootContext
    deployment: DeploymentInputs | None = None

    @property
    def inputs(self) -> DeploymentInputs:
        """The deployment to do; undoing needs none."""
        if self.deployment is None:
            raise RuntimeError(f"{type(self).__name__} was made to undo, not to do")
        return self.deployment


def task_and_agent(ctx: Context) -> tuple[str, str]:
    """Return the ids of the task and of the agent, which all names are made of."""
    return ctx.values["task_id"], ctx.saga_id


def presence(path: str) -> Presence:
    """Tell whether there is anything of that name; ours, since only we use it."""
    return Presence.OURS if durable.exists(path) else Presence.ABSENT
