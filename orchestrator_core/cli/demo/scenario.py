"""
The acts of the demonstration.

Six deployments: one agent finishes, one reports its end from inside, one crashes, one hangs
and is killed, one deployment fails, and one orchestrator is killed with -9 in the middle of
its deployment and recovered.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orchestrator_core
from orchestrator_core import AgentSpec, DeploymentError, GracePeriods, InvalidInput, Orchestrator
from orchestrator_core.cli import LEFT, OK
from orchestrator_core.cli.demo import leftovers
from orchestrator_core.cli.demo.drawing import Canvas
from orchestrator_core.cli.printing import CommandResult
from orchestrator_core.saga import Observer

if TYPE_CHECKING:
    from orchestrator_core import Agent, Task

_TIMEOUT_S = 60.0  #: For an end that takes 1 to 2 s.

#: The agents, and how each ends.
_AGENTS = {
    "surveyor": "one finishes: its process ends, and its supervisor unwinds it",
    "historian": "one reports from inside its own session that it has completed",
    "reviewer": "one crashes",
    "watcher": "one hangs, deaf to HUP and TERM, with a daemon: it is killed",
}


def demo(*, root: str | None, directory: str | None, keep: bool, quiet: bool) -> CommandResult:
    """
    Run the demonstration in a new directory, which is removed afterwards unless *keep*.

    The agents read *directory*, or else the working directory if that is a git repository, or
    else this package. *quiet* draws nothing. The exit code is 3 if anything is left.

    Raises:
        InvalidInput: *root* is not empty, or *directory* is not a directory.
    """
    place = Path(root or tempfile.mkdtemp(prefix="oc-demo-")).resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InvalidInput(f"{place} is not an empty directory", hint="give --root a new directory")
    canvas = Canvas(io.StringIO() if quiet else None)
    here, package = Path.cwd(), Path(orchestrator_core.__file__).parent
    source = Path(directory or (here if (here / ".git").exists() else package)).absolute()
    scenario = Demo(place / "workspace", source, canvas)
    try:
        data = scenario.run()
    finally:
        scenario.close(keep=keep)
    if keep:
        canvas.line(f"  kept: orchestrator-core --root {scenario.root} ps --all")
    return CommandResult(data, "", OK if data["left"] == 0 else LEFT)


class Demo(Observer):
    """The acts, in order, on one root; as an observer, it collects the duration of each step."""

    def __init__(self, root: Path, directory: Path, canvas: Canvas) -> None:
        self.root = root
        self.directory = directory
        self.canvas = canvas
        self.orch = Orchestrator(root, observer=self, patience=GracePeriods(term_s=1.0))
        self.done_ms: dict[str, dict[str, float]] = {}  #: By saga and step.
        self.ends: dict[str, Any] = {}
        self.most: dict[str, int] = {}

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """Keep the duration."""
        self.done_ms.setdefault(saga_id, {})[step] = duration_ms

    def run(self) -> dict[str, Any]:
        """Run all acts, and return their results."""
        started = time.monotonic()
        self.canvas.fact("they read", str(self.directory))
        task = self.orch.create_task(f"Get to know {self.directory.name}")
        for agent in self._deploy_four(task):
            self._end(agent)
        self._fail(task)
        self._recover_killed(task)
        return self._count(time.monotonic() - started)

    def close(self, *, keep: bool) -> None:
        """End the agents that live and, unless *keep*, the tmux server; and remove all files."""
        for agent in self.orch.agents(status="active"):
            self.orch.terminate(agent.id, reason="the demonstration was interrupted")
        if not keep:
            tmux = ["tmux", "-N", "-S", leftovers.socket_of(self.root), "kill-server"]
            subprocess.run(tmux, capture_output=True, check=False)
            shutil.rmtree(self.root.parent, ignore_errors=True)

    # --- four agents -----------------------------------------------------------------------------

    def _deploy_four(self, task: Task) -> list[Agent]:
        self.canvas.heading("four agents are deployed: all of each, or nothing")
        ready = self.root.parent / "ready"
        os.mkfifo(ready, 0o600)
        fd = os.open(ready, os.O_RDONLY | os.O_NONBLOCK)
        start = os.open(ready.parent, os.O_RDONLY)
        fcntl.flock(start, fcntl.LOCK_EX)  # The agents wait for it, so that all are counted.
        agents = [self._deploy(task, name, ready) for name in _AGENTS]
        self._count_now()
        os.close(start)
        select.select([fd], [], [], _TIMEOUT_S)  # The watcher writes when it hangs.
        os.close(fd)
        return agents

    def _deploy(self, task: Task, name: str, ready: Path) -> Agent:
        spec = AgentSpec(
            type=name,
            prompt=f"Read this directory as a {name}.",
            command=_program(name, str(ready)),
            cwd=str(self.directory),
        )
        agent = self.orch.deploy(task.id, spec)
        self.canvas.line(f"  {agent.id}  runs: {spec.prompt}")
        return agent

    def _end(self, agent: Agent) -> None:
        self.canvas.heading(_AGENTS[agent.type])
        if agent.type == "watcher":
            alive = len(leftovers.processes(f"_{agent.id}"))
            text = f"{alive} processes, one in a session of its own, one a daemon"
            self.canvas.fact("alive", text)
            end = self.orch.terminate(agent.id, reason="it hangs")
        else:
            end = self.orch.wait(agent.id, timeout_s=_TIMEOUT_S)
        self.ends[agent.id] = end.to_dict()
        for progress in self.orch.read_progress(agent.id):
            self.canvas.fact("said", f"{progress.progress:3} % {progress.message}")
        for finding in self.orch.read_findings(agent.id):
            self.canvas.fact("found", f"{finding.finding_type}: {finding.message}")
        if end.exit_code:
            self.canvas.fact("wrote", self.orch.read_output(agent.id, tail=1))
        ended_at = datetime.fromisoformat(str(self.orch.agent(agent.id).completed_at))
        lived_s = (ended_at - datetime.fromisoformat(agent.started_at)).total_seconds()
        text = f"commit · it held all this for {lived_s:.1f} s · {end.status}: {end.reason}"
        self._draw(agent.id, text, end.status)

    def _draw(self, agent_id: str, end: str, status: str = "") -> None:
        report = self.orch.history(agent_id).report or {}
        undone = {step["step"]: {**step, "status": status} for step in report["steps"]}
        self.canvas.saga(agent_id, self.done_ms[agent_id], undone, end)

    # --- two deployments that fail ---------------------------------------------------------------

    def _fail(self, task: Task) -> None:
        self.canvas.heading("a deployment fails: its agent dies at once, and all of it is undone")
        spec = AgentSpec(type="late", prompt="You will not live long.", command=["false"])
        try:
            self.orch.deploy(task.id, spec, grace_s=_TIMEOUT_S)
        except DeploymentError as error:
            self.ends[error.agent_id] = error.to_dict()
            self.canvas.fact("error", str(error).partition(": ")[2])
            self._draw(error.agent_id, f"rolled back: {', '.join(error.leaked) or 'nothing'} left")

    def _recover_killed(self, task: Task) -> None:
        self.canvas.heading("an orchestrator is killed with -9 in the middle of a deployment")
        command = _program("crash_after", "spawn_tmux", str(self.root), task.id)
        victim = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in victim.stdout.splitlines():
            pid, agent_id, step, duration_ms = line.split()
            self.step_done(agent_id, step, float(duration_ms))
        self.canvas.fact("killed", f"pid {pid}, by signal {-victim.returncode}, after {step}")
        started = time.monotonic()
        Orchestrator(self.root)
        took_ms = (time.monotonic() - started) * 1000
        self.ends[agent_id] = report = self.orch.history(agent_id).report or {}
        text = f"recovered in {took_ms:.0f} ms, by opening the root: {report['why']['message']}"
        self._draw(agent_id, text)

    # --- the count -------------------------------------------------------------------------------

    def _count_now(self) -> dict[str, int]:
        """Count the resources, and keep the maximum of each kind."""
        now = leftovers.count(self.root)
        self.most = {kind: max(number, self.most.get(kind, 0)) for kind, number in now.items()}
        return now

    def _count(self, took_s: float) -> dict[str, Any]:
        self.canvas.heading("what is left, by the system's own account")
        now = self._count_now()
        left = sum(now.values())
        self.canvas.line(f"{'at most   now':>39}")
        for kind, number in now.items():
            self.canvas.line(f"  {kind:<21}   {self.most[kind]:>7}   {number:>3}")
        mark = "✗" if left else "✓"
        self.canvas.line(f"\n  {mark} {len(self.ends)} sagas in {took_s:.1f} s, {left} leftovers")
        return {
            "directory": str(self.directory),
            "took_s": round(took_s, 3),
            "agents": self.ends,
            "held": self.most,
            "leftovers": now,
            "left": left,
        }


def _program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "orchestrator_core.cli.demo.programs", name, *arguments]
