"""The resident sweeper as a service: a separate process, on real tmux."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator_core.deployment import documents
from orchestrator_core.deployment.steps import session
from orchestrator_core.operations.daemon.file_events import DirectoryEvents
from orchestrator_core.system.event_reader import wait_readable

pytestmark = pytest.mark.tmux

TOP = Path(__file__).parents[2]
LONG_S = 20
_PROGRAM = (sys.executable, "-m", "orchestrator_core")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

#: A program with a daemon; both ignore SIGTERM and SIGHUP.
STUBBORN = (
    "import os, signal, time\n"
    "for number in (signal.SIGTERM, signal.SIGHUP):\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
    "if not os.fork():\n"
    "    os.setsid()\n"
    "print('ready', flush=True)\n"
    "time.sleep(1000)\n"
)


class Resident:
    """One `sweep --watch`, and the service manager that has started it."""

    def __init__(self, scene):
        self.scene = scene
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(scene.place / f"notify-{time.monotonic_ns()}"))
        self.manager.settimeout(LONG_S)
        self.process = None

    def start(self, *options, env=None, **how):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRATOR")}
        expected = {"NOTIFY_SOCKET": self.manager.getsockname(), "PYTHONPATH": str(TOP)}
        self.process = subprocess.Popen(
            [*_PROGRAM, "--root", self.scene.root, "sweep", "--watch", *options],
            env=inherited | expected | (env or {}),
            cwd="/",
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **how},
        )
        return self

    def until(self, word):
        """Return when the service manager has received *word*."""
        while word not in self.manager.recv(4096).decode().split("\n"):
            pass
        return self

    def until_swept(self):
        """Return when the first sweep has ended."""
        beats = self.scene.root / "registry"
        with contextlib.closing(DirectoryEvents(beats)) as events:
            while not (self.beat() or {}).get("sweeps"):
                assert wait_readable([events.fd], time.monotonic() + LONG_S)
                events.read()
        return self

    def beat(self):
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.scene.root / "registry" / "sweeper.json").read_bytes())
        return None

    def stop(self, signum=signal.SIGTERM):
        """Send a signal; return the exit status and the time to the exit."""
        began = time.monotonic()
        self.process.send_signal(signum)
        return self.process.wait(LONG_S), time.monotonic() - began

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr) if self.process else ():
            if stream is not None:
                stream.close()
        self.manager.close()


@pytest.fixture
def resident(scene):
    """Start sweepers, and kill them after the test."""
    made = []

    def start(*options, **how):
        made.append(Resident(scene))
        return made[-1].start(*options, **how)

    yield start
    for each in made:
        each.close()


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("watched").id


def until_closed(scene, *agents):
    """Return when the agents' sagas are closed."""
    closed = scene.root / "sagas" / "closed"
    with contextlib.closing(DirectoryEvents(closed)) as events:
        while [each for each in agents if not (closed / f"{each}.jsonl").exists()]:
            assert wait_readable([events.fd], time.monotonic() + LONG_S), agents
            events.read()


def crash(scene, agent):
    """Kill an agent's supervisor with -9."""
    [supervisor] = scene.world.panes(agent.id)
    scene.kill(supervisor)


def command(scene, *words):
    """Return the exit status and the JSON output of a command."""
    found = subprocess.run(
        [*_PROGRAM, "--root", scene.root, *words, "--json"],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return found.returncode, json.loads(found.stdout)


# --- what it is for ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["polite", "stubborn"])
def test_a_crashed_agent_is_unwound_at_once(scene, orch, task, resident, kind):
    """After SIGKILL of the supervisor, no process, session, file or record is left."""
    agent = orch.deploy(task, scene.spec(*_kinds(kind)))
    if kind == "stubborn":
        scene.follow(str(scene.root / task / "logs" / f"{agent.id}_stream.jsonl"), until=b"ready")
    sweeper = resident().until("READY=1")

    crash(scene, agent)

    until_closed(scene, agent.id)
    sweeper.stop()
    assert [] == scene.world.leftovers()
    assert "error" == orch.agent(agent.id).status


def _kinds(kind):
    return (sys.executable, "-c", STUBBORN) if kind == "stubborn" else ("sleep", "1000")


def test_the_sweeper_unwinds_an_exited_agent_without_a_new_unwinder(
    scene, orch, task, resident, monkeypatch
):
    """The running sweeper is faster than a new unwinder process."""
    unwinders = scene.place / "unwinders"
    monkeypatch.setattr(documents, "unwinder_argv", lambda *_: ["/usr/bin/touch", str(unwinders)])
    sweeper = resident().until("READY=1").until_swept()
    agent = orch.deploy(task, scene.spec("sh", "-c", "exit 3"))

    end = orch.wait(agent.id, timeout_s=LONG_S)

    sweeper.stop()
    assert ("failed", 3) == (end.status, end.exit_code)
    assert (True, True) == (end.success, end.verified_no_zombies)
    assert not unwinders.exists()
    assert [] == scene.world.leftovers()


def test_the_supervisor_unwinds_if_the_sweeper_hangs(scene, orch, task, resident):
    sweeper = resident().until("READY=1").until_swept()
    os.kill(sweeper.process.pid, signal.SIGSTOP)
    try:
        agent = orch.deploy(task, scene.spec("true"))
        end = orch.wait(agent.id, timeout_s=LONG_S)
    finally:
        os.kill(sweeper.process.pid, signal.SIGCONT)

    sweeper.stop()
    assert ("completed", True) == (end.status, end.success)
    assert [] == scene.world.leftovers()


def test_an_agent_deployed_later_is_watched(scene, orch, task, resident):
    sweeper = resident().until("READY=1").until_swept()
    agents = [orch.deploy(task, scene.spec()) for _ in range(3)]

    for agent in agents:
        crash(scene, agent)

    until_closed(scene, *(agent.id for agent in agents))
    sweeper.stop()
    assert [] == scene.world.leftovers()


def test_a_killed_deployment_is_undone(scene, task, resident, actors):
    """The resources are released, although no process opens the root."""
    how = {"root": str(scene.root), "task": task, "command": ["sleep", "1000"]}
    effects = len(actors.do("deploy", count=True, **how)["effects"])
    sweeper = resident().until("READY=1").until_swept()

    assert actors.do("deploy", kill_at=(effects * 6 // 10, "before"), **how)["killed"]

    _until_open_sagas(scene, 1)
    assert 0 == sweeper.stop()[0]
    assert [] == scene.world.torn()


def _until_open_sagas(scene, count):
    with contextlib.closing(DirectoryEvents(scene.root / "sagas")) as events:
        while len(scene.world.files("sagas/*.jsonl")) > count:
            assert wait_readable([events.fd], time.monotonic() + LONG_S)
            events.read()


def test_the_sweeper_enforces_a_deadline_that_the_supervisor_does_not(
    scene, orch, task, resident, monkeypatch
):
    """A supervisor without the deadline in its launch file cannot enforce it."""
    build_launch = session.build_launch

    def without_deadline(context, inputs):
        launch = build_launch(context, inputs)
        launch.deadline_s = None
        return launch

    monkeypatch.setattr(session, "build_launch", without_deadline)
    sweeper = resident().until("READY=1").until_swept()
    agent = orch.deploy(task, scene.spec(deadline_s=0.3))

    until_closed(scene, agent.id)

    sweeper.stop()
    assert [] == scene.world.leftovers()
    assert ("terminated", "its deadline passed") == _end(orch.agent(agent.id))


def _end(agent):
    return agent.status, agent.end_reason


# --- its own ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_signal_during_the_wait_stops_the_sweeper(scene, orch, task, resident, signum):
    """The exit is immediate and successful, and the agents stay alive."""
    agent = orch.deploy(task, scene.spec())
    sweeper = resident().until("READY=1").until_swept()

    status, took_s = sweeper.stop(signum)

    assert (0, True) == (status, took_s < 1.0)
    sweeper.until("STOPPING=1")
    assert [] == scene.world.torn()
    assert [agent.id] == [each.id for each in orch.agents(status="active")]


def test_a_signal_during_an_unwinding_stops_the_sweeper_within_a_second(
    scene, orch, task, resident
):
    """The next process that opens the root finishes the unwinding."""
    sweeper = resident().until("READY=1")
    agent = _being_ended(scene, orch, task)

    status, took_s = sweeper.stop()

    assert 0 == status
    assert took_s < 1.5  # One second, and the exit of the interpreter.
    assert scene.world.files(f"sagas/{agent.id}.jsonl")
    assert [agent.id] == list(orch.recover().unwound)
    assert [] == scene.world.leftovers()


def test_a_restarted_sweeper_finishes_the_work_of_a_killed_one(scene, orch, task, resident):
    """After SIGKILL during a reap, nothing is lost and nothing is done twice."""
    sweeper = resident().until("READY=1")
    agent = _being_ended(scene, orch, task)
    scene.kill(sweeper.process.pid)
    assert scene.world.files(f"sagas/{agent.id}.jsonl")

    sweeper = resident().until("READY=1")

    until_closed(scene, agent.id)
    sweeper.stop()
    assert [] == scene.world.leftovers()
    assert 1 == [line["kind"] for line in scene.world.journal(agent.id)].count("close")


def _being_ended(scene, orch, task):
    """Crash an agent that ends slowly; return when the sweeper unwinds it."""
    agent = orch.deploy(task, scene.spec(sys.executable, "-c", STUBBORN))
    scene.follow(str(scene.root / task / "logs" / f"{agent.id}_stream.jsonl"), until=b"ready")
    crash(scene, agent)
    scene.follow(str(scene.root / "sagas" / f"{agent.id}.jsonl"), until=b'"kind":"unwind"')
    return agent


def test_a_second_sweeper_exits_at_once_and_names_the_first(scene, resident):
    scene.orchestrator()
    first = resident().until("READY=1")

    second = resident(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    _, stdout = second.process.communicate(timeout=LONG_S)
    assert 4 == second.process.returncode
    assert f"pid {first.process.pid}" in stdout
    assert (0, 0.0) < first.stop() < (0, 1.0)


# --- how it is ---------------------------------------------------------------------------------


def test_the_health_command_reports_each_state(scene, orch, task, resident):
    """The exit status distinguishes a healthy sweeper from a missing, killed or stopped one."""
    agent = orch.deploy(task, scene.spec())
    states = [_health(scene)]
    sweeper = resident().until("READY=1").until_swept()
    states.append(_health(scene))
    scene.kill(sweeper.process.pid)
    states.append(_health(scene))
    sweeper = resident().until("READY=1").until_swept()
    states.append(_health(scene))
    sweeper.stop()
    states.append(_health(scene))

    assert [1, 0, 1, 0, 1] == [code for code, _ in states]
    words = [stdout["words"] for _, stdout in states]
    for part, expected in zip(
        ["no sweeper has run", "watches 1 agents", "is dead", "watches 1", "stopped on request"],
        words,
        strict=True,
    ):
        assert part in expected
    assert [agent.id] == [each.id for each in orch.agents(status="active")]


def _health(scene):
    return command(scene, "health")


def test_a_service_manager_is_notified(scene, resident):
    """READY after the start, WATCHDOG while the sweeper runs, STOPPING at the end."""
    scene.orchestrator()
    sweeper = resident(env={"WATCHDOG_USEC": "200000"}).until("READY=1")

    sweeper.until("WATCHDOG=1").until("WATCHDOG=1").until("WATCHDOG=1")
    sweeper.process.send_signal(signal.SIGTERM)
    sweeper.until("STOPPING=1")

    assert 0 == sweeper.process.wait(LONG_S)


def _once_at_rest(pid):
    """Return the processor time after the work that follows a sweep."""
    deadline = time.monotonic() + LONG_S
    last = None
    while last != (now := _cpu_s(pid)):
        assert time.monotonic() < deadline, "it never rests"
        last = now
        wait_readable([], time.monotonic() + 0.3)
    return now


def test_an_idle_sweeper_costs_almost_nothing(scene, orch, task, resident):
    """An idle sweeper has little processor time, few descriptors, one thread, less than 40 MB."""
    agents = [orch.deploy(task, scene.spec()) for _ in range(4)]
    sweeper = resident().until("READY=1").until_swept()
    pid = sweeper.process.pid
    before = _once_at_rest(pid)

    assert not wait_readable([], time.monotonic() + 1.5)  # There is nothing to come.

    assert _cpu_s(pid) - before <= TICK_S
    assert 1 == _status(pid, "Threads")
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 16 + len(agents)
    crash(scene, agents[0])
    until_closed(scene, agents[0].id)
    assert _status(pid, "VmRSS") <= 40 * 1024


def _status(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S
