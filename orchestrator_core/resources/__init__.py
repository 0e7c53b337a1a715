"""
The resources that agents need most often, each a step of a saga: held while the agent lives.

::

    from orchestrator_core.resources import EnvFile, GitWorktree, ReservedPort, Subprocess

    orch.deploy(
        task.id,
        AgentSpec(type="web", prompt="…", command=["./serve", "--port", "{port}"]),
        extra_steps=[
            GitWorktree("~/src/shop"),
            ReservedPort(),
            EnvFile({"API_KEY": key}),
            Subprocess(["redis-server", "--port", "0", "--unixsocket", "redis.sock"]),
        ],
    )

They use :mod:`orchestrator_core.saga` as every step does, know nothing of agents, and work
in other sagas. A user's own steps have the same rights: :mod:`.provision` describes how a
step passes on what it holds, and :mod:`.step_registry` how the processes that must undo a
step find it.

=============== =============================== ==========================================
step            holds                           undo
=============== =============================== ==========================================
git_worktree    a worktree on a new branch      remove both; work not saved elsewhere stays
reserved_port   a TCP port that no other agent  give it back
                on this machine gets
temp_directory  a directory                     remove it, with all that is in it
env_file        secrets, in a private file      delete it
subprocess      a helper server                 end all of its processes, with proof
=============== =============================== ==========================================

A deployment takes them first, in the order given. It gives them back in reverse order,
after the agent's last process has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator_core.resources.directory import TempDirectory
    from orchestrator_core.resources.env_file import EnvFile
    from orchestrator_core.resources.port import ReservedPort
    from orchestrator_core.resources.provision import Provision
    from orchestrator_core.resources.subprocess_step import Subprocess
    from orchestrator_core.resources.worktree import GitWorktree

__all__ = [
    "EnvFile",
    "GitWorktree",
    "Provision",
    "ReservedPort",
    "Subprocess",
    "TempDirectory",
]

#: The module and the class of each step, by the type of its receipts in journals.
STEP_TYPES = {
    "git_worktree": ("orchestrator_core.resources.worktree", "GitWorktree"),
    "reserved_port": ("orchestrator_core.resources.port", "ReservedPort"),
    "temp_directory": ("orchestrator_core.resources.directory", "TempDirectory"),
    "env_file": ("orchestrator_core.resources.env_file", "EnvFile"),
    "subprocess": ("orchestrator_core.resources.subprocess_step", "Subprocess"),
}
_HOME = {name: home for home, name in STEP_TYPES.values()}
_HOME["Provision"] = "orchestrator_core.resources.provision"


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - for the first use of each name only

    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
