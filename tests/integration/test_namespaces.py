"""
Views from another pid namespace, as from a container that shares the root, on real tmux.

Such a view cannot see the supervisors. It changes nothing, says so, and may leave a request.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.needs import elsewhere
from support.world import wait_for_deaths

from orchestrator_core.model.status import Status

pytestmark = [pytest.mark.tmux, pytest.mark.needs("pid namespace")]

TOP = str(Path(__file__).parents[2])
CLI = [sys.executable, "-m", "orchestrator_core"]
OUT_OF_SIGHT = "cannot be seen from here"


@pytest.fixture
def env(scene):
    """The environment of a command line that is inside no agent."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")}
    return own | {"ORCHESTRATOR_ROOT": str(scene.root), "PYTHONPATH": TOP}


@pytest.fixture
def from_elsewhere(env):
    """Run the command line in another pid namespace; return its exit code and all it printed."""

    def run(*arguments):
        done = subprocess.run(
            elsewhere(*CLI, *arguments),
            env=env,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def agent(scene, orch):
    return orch.deploy(orch.create_task("tried").id, scene.spec())


@pytest.mark.parametrize(
    "command", [["ps"], ["recover"], ["sweep", "--reap"], ["sweep"]], ids=lambda words: words[-1]
)
def test_a_view_from_another_pid_namespace_ends_nobody_and_says_why(
    command, scene, agent, from_elsewhere
):
    before = scene.world.snapshot()

    _code, output = from_elsewhere(*command)

    assert OUT_OF_SIGHT in output
    assert agent.id in output
    assert before.keys() == scene.world.snapshot().keys()
    assert [agent.tmux_session] == scene.world.sessions()
    assert [] == scene.world.torn()


def test_a_wait_from_another_pid_namespace_takes_nobody_for_dead(scene, agent, env):
    """The library refuses to wait for what it cannot see."""
    waits = (
        "from orchestrator_core import Orchestrator, CouldNotAsk\n"
        "import sys\n"
        "try: print(Orchestrator(recover=False).wait(sys.argv[1], timeout_s=5))\n"
        "except CouldNotAsk as error: print(error)\n"
    )
    done = subprocess.run(
        elsewhere(sys.executable, "-c", waits, agent.id),
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )

    assert OUT_OF_SIGHT in done.stdout, done
    assert [] == scene.world.torn()


def test_a_kill_from_another_pid_namespace_is_a_request_that_a_look_from_outside_carries_out(
    scene, orch, agent, from_elsewhere
):
    code, output = from_elsewhere("kill", agent.id, "--reason", "enough")
    assert 0 == code, output
    assert OUT_OF_SIGHT in output
    assert scene.world.of_agent(agent.id)

    orch.recover()

    end = orch.wait(agent.id, timeout_s=20)
    assert (True, "terminated", "enough") == (end.success, end.status, end.reason)
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("clear", [[], ["env", "-i", f"PYTHONPATH={TOP}"]], ids=["marked", "bare"])
def test_an_agent_in_a_sandbox_of_its_own_reports_its_end(scene, orch, clear):
    """Its request is durable. Its supervisor, or a look from outside, carries it out."""
    report = ["progress", "--root", str(scene.root), "--status", "completed", "--message", "bye"]
    call = " ".join([*elsewhere(*clear), *CLI, *report, '"$ORCHESTRATOR_AGENT_ID"'])
    spec = scene.spec(
        "sh", "-c", f'{call}; echo "answered: $?"; sleep 1000', env={"PYTHONPATH": TOP}
    )
    agent = orch.deploy(orch.create_task("tried").id, spec)
    [log] = scene.root.glob("TASK-*/logs/*_stream.jsonl")
    archived = log.parents[1] / "archive" / log.name
    assert b"answered: 0" in scene.follow(log, archived, until=b"answered")

    orch.recover()

    end = orch.wait(agent.id, timeout_s=20)
    assert (True, Status.COMPLETED.value, "bye") == (end.success, end.status, end.reason)
    assert [] == scene.world.leftovers()


def test_agents_of_a_pid_namespace_that_is_gone_are_known_to_be_dead(scene, orch, env):
    """The kernel has released their supervisors' locks. While it holds them, they are unknown."""
    gate = scene.gate("go")
    deploy = " ".join(
        [*CLI, "deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--", "sleep", "1000"]
    )
    container = subprocess.Popen(
        elsewhere("sh", "-c", f"{deploy} && read go < {gate}"),
        env=env,
        cwd=scene.work,
        stdout=subprocess.PIPE,
        text=True,
    )
    with container:
        try:
            agent_id = container.stdout.readline().strip()
            assert [agent_id] == list(orch.recover().failed)
            living = list(scene.world.processes())
        finally:
            container.kill()
    wait_for_deaths(living, timeout_s=20)

    report = orch.recover()

    assert [agent_id] == list(report.unwound), report
    assert Status.ERROR.value == orch.agent(agent_id).status
    assert [] == scene.world.torn()


def test_no_agent_is_deployed_by_a_server_in_another_pid_namespace(scene, agent, from_elsewhere):
    """Its pids mean other processes here, or none. Refused before a session is started."""
    new = ["deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--", "sleep", "1000"]

    code, output = from_elsewhere(*new)

    assert 1 == code, output
    assert "another pid namespace" in output
    assert [agent.tmux_session] == scene.world.sessions()
    assert [] == scene.world.torn()
