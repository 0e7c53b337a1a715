"""
The demonstration: real agents, real ends, and a count of what is left.

Six deployments below a root of their own: one agent finishes, one reports its
end from inside, one crashes, one hangs and is killed, one deployment fails
half-way, one orchestrator is killed with -9 in the middle of its deployment and
recovered. Everything here goes through the front door, as anybody's code would.
"""

from __future__ import annotations

import contextlib
import io
import json
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

import attrs
import msgspec

import orchestrator_core
from orchestrator_core import AgentSpec, DeploymentError, InvalidInput, Orchestrator, Patience
from orchestrator_core.cli import leftovers
from orchestrator_core.cli.commands import Result
from orchestrator_core.cli.demo_agents import ENV_READY
from orchestrator_core.cli.demo_repository import choose_directory
from orchestrator_core.cli.drawing import Paper, Row
from orchestrator_core.saga import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator_core import Agent, EndReport, Task
    from orchestrator_core.saga import History, StepReport, UnwindReport

STEPS = ("write_prompt", "tee_log", "spawn_tmux", "register_task", "register_global")
_PATIENCE_S = 60.0  #: For what takes a second or two.


def demo(*, root: str | None, directory: str | None, keep: bool, quiet: bool) -> Result:
    """Run the demonstration; *quiet* draws nothing, and leaves its result to speak."""
    paper = Paper(io.StringIO() if quiet else None)
    with _place(root, keep=keep or root is not None) as place:
        play = _Play(place / "workspace", choose_directory(directory, place), paper)
        try:
            data = play.run()
        except BaseException:
            play.end_all()
            raise
        finally:
            if not keep:
                _end_server(play.root)
        if keep:
            paper.line(f"kept: {play.root}; its tmux: tmux -S {play.socket} ls")
        clean = data["left"] == 0
    return Result(data, "", 0 if clean else 3)


@contextlib.contextmanager
def _place(root: str | None, *, keep: bool) -> Iterator[Path]:
    """Yield a directory of the demonstration's own."""
    place = Path(tempfile.mkdtemp(prefix="oc-demo-")) if root is None else Path(root).absolute()
    if root is not None and place.exists() and any(place.iterdir()):
        raise InvalidInput(f"{place} is not empty", hint="give --root a directory to be made")
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def _end_server(root: Path) -> None:
    """End the tmux server of the demonstration's root, which serves nobody else."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        socket = json.loads((root / "root.json").read_bytes())["tmux_socket"]
        command = ["tmux", "-N", "-S", socket, "kill-server"]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        Path(socket).unlink(missing_ok=True)


class _Witness(Observer):
    """Remembers how long each step took, there and back."""

    def __init__(self, *, on_failure: Callable[[], None] = lambda: None) -> None:
        self.done: dict[str, dict[str, float]] = {}
        self.undone: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, tuple[str, str]] = {}
        self._on_failure = on_failure

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        self.done.setdefault(saga_id, {})[step] = duration_ms

    def step_failed(self, saga_id: str, step: str, error: BaseException) -> None:
        self.failed[saga_id] = step, str(error)
        self._on_failure()

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        self.undone.setdefault(saga_id, {})[report.step] = attrs.asdict(report)


class _Play:
    """The acts, one after another, on one root."""

    def __init__(self, root: Path, directory: Path, paper: Paper) -> None:
        self.root = root
        self.directory = directory
        self.paper = paper
        self.witness = _Witness()
        self.orch = Orchestrator(root, observer=self.witness, patience=Patience(term_s=1.0))
        self.ends: dict[str, dict[str, Any]] = {}
        self.most: dict[str, int] = {}

    @property
    def socket(self) -> str:
        """The address of the root's tmux server."""
        return str(json.loads((self.root / "root.json").read_bytes())["tmux_socket"])

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
        self.paper.pairs([("they read", str(self.directory)), ("state", str(self.root))])

    # --- four lives ----------------------------------------------------------------------

    def _deploy_four(self, task: Task) -> dict[str, Agent]:
        self.paper.heading("four agents are deployed: all of each, or nothing")
        with _fifo(self.root.parent / "ready") as ready:
            crew = {name: self._deploy(task, name, ready) for name in _PROMPTS}
            self._look()
            ready.wait(_PATIENCE_S)
        self._look()
        for agent in crew.values():
            self.paper.pairs([(agent.type, _holding(self.orch.history(agent.id)))])
        return crew

    def _deploy(self, task: Task, name: str, ready: _Fifo) -> Agent:
        command = [sys.executable, "-P", "-m", "orchestrator_core.cli.demo_agents", name]
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
        for name, heading in _HEADINGS.items():
            self.paper.heading(heading)
            agent = crew[name]
            if name == "watcher":
                processes = len(leftovers.processes(_cookie(agent)))
                self.paper.pairs(
                    [
                        (
                            "alive",
                            f"{processes} processes, one of them in a session of its own, one a daemon",
                        )
                    ]
                )
                end = self.orch.terminate(agent.id, reason="it hangs")
            else:
                end = self.orch.wait(agent.id, timeout_s=_PATIENCE_S)
            self._tell(agent, end)

    def _tell(self, agent: Agent, end: EndReport) -> None:
        self.ends[agent.id] = end.to_dict()
        self.paper.pairs(_said(end))
        if end.exit_code:
            wrote = self.orch.read_output(agent.id, tail=1).strip()
            self.paper.pairs([("wrote", wrote), ("exit", f"status {end.exit_code}")])
        agent = self.orch.agent(agent.id)
        lived = datetime.fromisoformat(str(agent.completed_at)) - datetime.fromisoformat(
            agent.started_at
        )
        undone = {step["step"]: {**step, "status": end.status} for step in end.steps}
        self.paper.saga(
            agent.id,
            _rows(self.witness.done[agent.id], undone),
            committed=True,
            end=f"it held all this for {lived.total_seconds():.1f} s · {end.status}: {end.reason}",
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
            failed_at, why = witness.failed[error.agent_id]
            leaked = ", ".join(error.leaked) or "nothing"
            self.paper.pairs([("error", str(error)), ("leaked", leaked)])
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
        found = {what: number for what, number in self._look().items() if number}
        self.paper.pairs(
            [
                (
                    "killed",
                    f"pid {victim.pid}, by signal {-victim.returncode}, after {told[-1].split()[1]}",
                ),
                ("found", ", ".join(f"{what} {number}" for what, number in found.items())),
            ]
        )
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


_PROMPTS = {
    "surveyor": "Count the files and their lines.",
    "historian": "Tell who wrote this.",
    "reviewer": "Find what is left to do.",
    "watcher": "Wait for a file that never comes.",
}
_HEADINGS = {
    "surveyor": "one finishes: its process ends, and its supervisor unwinds it",
    "historian": "one says from inside its own session that it has completed",
    "reviewer": "one crashes",
    "watcher": "one hangs, deaf to HUP and TERM, with a daemon: it is killed",
}


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


def _cookie(agent: Agent) -> str:
    return f"_{agent.id}"


def _importable() -> dict[str, str]:
    """Return the variable by which our programs find this package, wherever it is."""
    here = str(Path(orchestrator_core.__file__).parents[1])
    return {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}


def _other(name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Start one of the other orchestrators."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator_core.cli.demo_others", name, *arguments],
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
