"""
The acts of the demonstration.

Six deployments: one agent finishes, one reports its end from inside, one
crashes, one hangs and is killed, one deployment fails half-way, one orchestrator
is killed with -9 in the middle of its deployment and recovered.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

import orchestrator_core
from orchestrator_core import AgentSpec, DeploymentError, GracePeriods, Orchestrator
from orchestrator_core.cli.demo import leftovers, socket_of
from orchestrator_core.cli.demo.drawing import Row
from orchestrator_core.cli.demo.programs import ENV_READY
from orchestrator_core.saga import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core import Agent, EndReport, Task
    from orchestrator_core.cli.demo.drawing import Paper
    from orchestrator_core.saga import History, StepReport, UnwindReport

STEPS = ("write_prompt", "tee_log", "spawn_tmux", "register_task", "register_global")
_PATIENCE_S = 60.0  #: For what takes a second or two.

_PROMPTS = {
    "surveyor": "Count the files and their lines.",
    "historian": "Tell who wrote this.",
    "reviewer": "Find what is left to do.",
    "watcher": "Wait for a file that never comes.",
}


class Play:
    """The acts, one after another, on one root."""

    def __init__(self, place: Path, directory: Path, paper: Paper) -> None:
        self.root = place / "workspace"
        self.directory = directory
        self.paper = paper
        self.witness = _Witness()
        self.orch = Orchestrator(
            self.root, observer=self.witness, patience=GracePeriods(term_s=1.0)
        )
        self.ends: dict[str, dict[str, Any]] = {}
        self.most: dict[str, int] = {}

    @property
    def socket(self) -> str:
        """The address of the root's tmux server."""
        return socket_of(self.root)

    def run(self) -> dict[str, Any]:
        """Play all acts, and return what they came to."""
        begun = time.monotonic()
        self._prologue()
        task = self.orch.create_task(f"Get to know {self.directory.name}")
        self._live_and_end(self._deploy_four(task))
        self._fail_half_way(task)
        self._be_killed(task)
        return self._count(time.monotonic() - begun)

    def end_all(self) -> None:
        """End whoever still lives, the play having been broken off."""
        for agent in self.orch.agents(status="active"):
            self.orch.terminate(agent.id, reason="the demonstration was broken off")

    def _look(self) -> dict[str, int]:
        """Count what is held now, and remember the most there ever was of each kind."""
        now = leftovers.count(self.root)
        self.most = {what: max(number, self.most.get(what, 0)) for what, number in now.items()}
        return now

    def _prologue(self) -> None:
        tmux = subprocess.run(["tmux", "-V"], capture_output=True, text=True, check=False)
        self.paper.line(
            f"orchestrator_core {orchestrator_core.__version__} · {tmux.stdout.strip()}"
            f" · Python {sys.version.split()[0]}"
        )
        self.paper.fact("they read", str(self.directory))
        self.paper.fact("state", str(self.root))

    # --- four lives ----------------------------------------------------------------------

    def _deploy_four(self, task: Task) -> dict[str, Agent]:
        self.paper.heading("four agents are deployed: all of each, or nothing")
        with _fifo(self.root.parent / "ready") as ready:
            crew = {name: self._deploy(task, name, ready) for name in _PROMPTS}
            self._look()
            ready.wait(_PATIENCE_S)
        self._look()
        for agent in crew.values():
            self.paper.fact(agent.type, _holding(self.orch.history(agent.id)))
        return crew

    def _deploy(self, task: Task, name: str, ready: _Fifo) -> Agent:
        command = [sys.executable, "-P", "-m", "orchestrator_core.cli.demo.programs", name]
        spec = AgentSpec(
            type=name,
            prompt=_PROMPTS[name],
            command=command,
            cwd=str(self.directory),
            env={**_importable(), ENV_READY: str(ready.path)},
        )
        begun = time.monotonic()
        agent = self.orch.deploy(task.id, spec)
        took_ms = (time.monotonic() - begun) * 1000
        self.paper.line(f"{agent.id}  runs after {took_ms:.0f} ms: {_PROMPTS[name]}")
        return agent

    def _live_and_end(self, crew: dict[str, Agent]) -> None:
        self.paper.heading("one finishes: its process ends, and its supervisor unwinds it")
        self._wait_for(crew["surveyor"])
        self.paper.heading("one says from inside its own session that it has completed")
        self._wait_for(crew["historian"])
        self.paper.heading("one crashes")
        self._wait_for(crew["reviewer"])
        self.paper.heading("one hangs, deaf to HUP and TERM, with a daemon: it is killed")
        self._kill(crew["watcher"])

    def _wait_for(self, agent: Agent) -> None:
        self._tell(agent, self.orch.wait(agent.id, timeout_s=_PATIENCE_S))

    def _kill(self, agent: Agent) -> None:
        alive = len(leftovers.processes(f"_{agent.id}"))
        self.paper.fact("alive", f"{alive} processes, one in a session of its own, one a daemon")
        self._tell(agent, self.orch.terminate(agent.id, reason="it hangs"))

    def _tell(self, agent: Agent, end: EndReport) -> None:
        self.ends[agent.id] = end.to_dict()
        for name, value in _said(end):
            self.paper.fact(name, value)
        if end.exit_code:
            self.paper.fact("wrote", self.orch.read_output(agent.id, tail=1).strip())
        lived_s = _seconds_of(self.orch.agent(agent.id))
        undone = {step["step"]: {**step, "status": end.status} for step in end.steps}
        self.paper.saga(
            agent.id,
            _rows(self.witness.done[agent.id], undone),
            committed=True,
            end=f"it held all this for {lived_s:.1f} s · {end.status}: {end.reason}",
        )

    # --- two deployments that come to nothing ------------------------------------------------

    def _fail_half_way(self, task: Task) -> None:
        self.paper.heading("a deployment fails half-way: somebody will not let go of a registry")
        greedy = _other("greedy", str(self.root), stdin=subprocess.PIPE)
        assert greedy.stdout is not None  # noqa: S101 - for the types: it is a pipe
        greedy.stdout.readline()
        witness = _Witness(on_failure=lambda: _let_go(greedy))
        orch = Orchestrator(self.root, observer=witness, recover=False, lock_timeout_s=0.3)
        spec = AgentSpec(type="late", prompt="You will never run.", command=["sleep", "3600"])
        try:
            orch.deploy(task.id, spec)
        except DeploymentError as error:
            failed_at = witness.failed[error.agent_id]
            self.paper.fact("error", str(error))
            self.paper.fact("leaked", ", ".join(error.leaked) or "nothing")
            self.ends[error.agent_id] = error.to_dict()
            rows = _rows(
                witness.done[error.agent_id],
                witness.undone[error.agent_id],
                failed_at=failed_at,
                why="the lock did not come in 0.3 s",
            )
            self.paper.saga(
                error.agent_id, rows, committed=False, end="rolled back: nothing is left"
            )
        finally:
            _let_go(greedy)

    def _be_killed(self, task: Task) -> None:
        self.paper.heading("an orchestrator is killed with -9 in the middle of a deployment")
        victim = _other("killed", str(self.root), task.id, "spawn_tmux")
        told = victim.communicate(timeout=_PATIENCE_S)[0].splitlines()
        agent_id = told[0].split()[0]
        done = {line.split()[1]: float(line.split()[2]) for line in told}
        found = ", ".join(f"{what} {number}" for what, number in self._look().items() if number)
        last = told[-1].split()[1]
        self.paper.fact("killed", f"pid {victim.pid}, by signal {-victim.returncode}, after {last}")
        self.paper.fact("found", found)
        begun = time.monotonic()
        recovered = Orchestrator(self.root, observer=self.witness)
        took_ms = (time.monotonic() - begun) * 1000
        assert recovered.recovery is not None  # noqa: S101 - for the types: opening recovers
        report: UnwindReport = recovered.recovery.unwound[agent_id]
        self.ends[agent_id] = msgspec.to_builtins(report)
        self.paper.saga(
            agent_id,
            _rows(done, {step.step: attrs.asdict(step) for step in report.steps}),
            committed=False,
            end=f"recovered in {took_ms:.0f} ms, by opening the root: {report.why.message}",
        )

    # --- the count -----------------------------------------------------------------------------

    def _count(self, took_s: float) -> dict[str, Any]:
        self.paper.heading("what is left, by the system's own account")
        now = self._look()
        rows = [(what, self.most[what], now[what]) for what in now]
        left = sum(now.values())
        self.paper.table(("", "at most", "now"), [*rows, ("sum", sum(self.most.values()), left)])
        self.paper.verdict(
            f"{len(self.ends)} sagas in {took_s:.1f} s, {left} leftovers", good=left == 0
        )
        return {
            "directory": str(self.directory),
            "took_s": round(took_s, 3),
            "agents": self.ends,
            "held": self.most,
            "leftovers": now,
            "left": left,
        }


class _Witness(Observer):
    """Remembers how long each step took, there and back."""

    def __init__(self, *, on_failure: Callable[[], None] = lambda: None) -> None:
        self.done: dict[str, dict[str, float]] = {}
        self.undone: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._on_failure = on_failure

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        self.done.setdefault(saga_id, {})[step] = duration_ms

    def step_failed(self, saga_id: str, step: str, _error: BaseException) -> None:
        self.failed[saga_id] = step
        self._on_failure()

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        self.undone.setdefault(saga_id, {})[report.step] = attrs.asdict(report)


def _rows(
    done: dict[str, float], undone: dict[str, Any], *, failed_at: str = "", why: str = ""
) -> list[Row]:
    return [
        Row(step, done.get(step), undone.get(step), error=why if step == failed_at else "")
        for step in STEPS
    ]


def _said(end: EndReport) -> Iterator[tuple[str, str]]:
    """Yield what an agent reported and found, from the lines in its archive."""
    for path in map(Path, end.archived_files):
        if path.name.endswith("_progress.jsonl"):
            yield from (
                ("said", f"{line['progress']:3} % {line['message']}") for line in _lines(path)
            )
        if path.name.endswith("_findings.jsonl"):
            yield from (
                ("found", f"{line['finding_type']}: {line['message']}") for line in _lines(path)
            )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_bytes().splitlines())


def _holding(history: History) -> str:
    """Return in words what an agent's receipts say that it holds."""
    held = {frame.name: frame.receipt for frame in history.stack if frame.done}
    spawned = held["spawn_tmux"]
    supervisor = (spawned.get("supervisor") or {}).get("pid")
    return (
        f"session, supervisor {supervisor}, {'cgroup, ' * bool(spawned.get('cgroup'))}"
        "prompt, log, journal, records"
    )


def _seconds_of(agent: Agent) -> float:
    began, ended = map(datetime.fromisoformat, (agent.started_at, str(agent.completed_at)))
    return (ended - began).total_seconds()


def _importable() -> dict[str, str]:
    """Return the variable by which our programs find this package, wherever it is."""
    here = str(Path(orchestrator_core.__file__).parents[1])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def _other(name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start one of the other orchestrators."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator_core.cli.demo.child_programs", name, *arguments],
        env={**os.environ, **_importable()},
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def _let_go(greedy: subprocess.Popen[str]) -> None:
    """See the greedy one off: its lock ends with it."""
    if greedy.poll() is None:
        greedy.communicate(timeout=_PATIENCE_S)


@attrs.frozen
class _Fifo:
    """A FIFO that an agent writes to when it is ready: a wait that needs no polling."""

    path: Path
    fd: int

    def wait(self, timeout_s: float) -> None:
        """Return when something has been written, or the time is over."""
        select.select([self.fd], [], [], timeout_s)


@contextlib.contextmanager
def _fifo(path: Path) -> Iterator[_Fifo]:
    os.mkfifo(path, 0o600)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield _Fifo(path, fd)
    finally:
        os.close(fd)
        path.unlink()
