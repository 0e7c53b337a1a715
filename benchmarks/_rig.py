"""Both ways to deploy and to end an agent, side by side on one tmux server."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import _figures
import floor_deploy
import floor_terminate

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.system.processes import LocalProcesses

AGENT = ["sleep", "1000"]
PROMPT = "Find the slow query.\n" * 20


class Rig:
    """One root of the library, and one of the floor."""

    def __init__(self, directory: Path) -> None:
        self.orch = Orchestrator(directory / "library")
        self._spec = AgentSpec(type="bench", prompt=PROMPT, command=AGENT)
        self._numbers = itertools.count()
        self.socket = Path(directory / "library" / "tmux.sock")
        self._renew_task()
        self._end_library(self.deploy_library())  # The server runs from here on.
        cgroup = LocalProcesses().cgroup_path("oc_floor")
        self.site = floor_deploy.Site.make(
            directory / "floor",
            socket=self.socket,
            cgroups=None if cgroup is None else Path(cgroup).parent,
            tmux=shutil.which("tmux"),
            environment={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        )

    def _renew_task(self) -> None:
        self._task = self.orch.create_task("A benchmark")

    def level(self) -> None:
        """Begin a new task, and give the floor's documents the size of the library's."""
        self._renew_task()
        self.deploy_and_end()
        self.site.task_document = Path(self._task.workspace, "AGENT_REGISTRY.json").read_bytes()
        registry = self.orch.root / "registry" / "GLOBAL_REGISTRY.json"
        self.site.global_document = registry.read_bytes()

    def deploy_and_end(self) -> None:
        self._end_library(self.deploy_library())

    def deploy_library(self) -> str:
        return self.orch.deploy(self._task.id, self._spec).id

    def deploy_floor(self) -> floor_deploy.Held:
        return floor_deploy.deploy(
            self.site, f"floor-{next(self._numbers)}", AGENT, PROMPT.encode()
        )

    def end_library(self, agent_id: str) -> None:
        report = self._end_library(agent_id)
        if not (report.success and report.verified_no_zombies):
            raise RuntimeError(f"something was left: {report}")

    def _end_library(self, agent_id: str):
        return self.orch.terminate(agent_id, reason="benchmark")

    def end_floor(self, held: floor_deploy.Held) -> None:
        floor_terminate.terminate(self.site, held)


@contextmanager
def rig(directory: str | None):
    with _figures.place(directory) as where:
        one = Rig(where)
        try:
            yield one
        finally:
            for agent in one.orch.agents(status="active"):
                one.orch.terminate(agent.id)
            # The private server, by its socket.
            subprocess.run(["tmux", "-S", str(one.socket), "kill-server"], check=False)
