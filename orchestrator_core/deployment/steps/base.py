"""The base of a deployment's steps: the root's context, and the inputs of one deployment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from orchestrator_core.deployment.task_lookup import find_record
from orchestrator_core.exceptions import ReceiptRefused
from orchestrator_core.saga import Presence, Step
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.system import durable, paths
from orchestrator_core.system.names import is_id
from orchestrator_core.system.processes.exit_record import new_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    secret: str = attrs.field(factory=new_secret, repr=False)  #: The supervisor's.


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

    def owner(self, saga_id: str, labels: Mapping[str, Any]) -> Owner:
        """
        Return the agent of a saga, by the saga's id.

        Raises:
            ReceiptRefused: No task is known to have such an agent.
        """
        agent_id = naming_id(saga_id, labels)
        task_id = labels.get("task_id")
        if not is_id(task_id):
            found = find_record(self.context, agent_id)
            if found is None:
                raise ReceiptRefused(f"no task is known to have the agent {agent_id!r}")
            task_id = found[0]
        return Owner(str(task_id), agent_id)

    def own_path(self, recorded: str, path_of: Callable[[str, str], Path], owner: Owner) -> str:
        """
        Return a recorded path if it is the agent's, or else the path that its id leads to.

        A recorded path is the agent's if it is below its task and the file's name contains
        the agent's id: the legacy system had other names.
        """
        derived, path = path_of(*owner), Path(recorded)
        is_named = re.search(rf"(?:^|_){re.escape(owner.agent_id)}(?:[._]|$)", path.name)
        if path != derived and is_named and os.path.normpath(path) == recorded:
            task = self.context.layout.task(owner.task_id)
            archive = self.context.layout.archive(owner.task_id)
            is_below = path.is_relative_to(task) and not path.is_relative_to(archive)
            if is_below and _leads_through_no_symlink(path.parent):
                return recorded
        return str(derived)

    @property
    def inputs(self) -> DeploymentInputs:
        """The inputs of the deployment to do; an undo needs none."""
        if self.deployment is None:
            raise RuntimeError(f"{type(self).__name__} was created to undo, not to do")
        return self.deployment


class Owner(NamedTuple):
    """The agent that a saga holds."""

    task_id: str
    agent_id: str


def _leads_through_no_symlink(directory: Path) -> bool:
    try:
        return paths.resolve(directory) == directory
    except OSError:
        return False


def task_and_agent(ctx: Context) -> tuple[str, str]:
    """Return the ids of the task and of the agent, from which all names are derived."""
    return ctx.values["task_id"], ctx.saga_id


def presence(path: str) -> Presence:
    """Return whether there is a file at *path*; OURS if so, since no one else uses the name."""
    return Presence.OURS if durable.exists(path) else Presence.ABSENT
