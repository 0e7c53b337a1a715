"""
Agents that resist their end, on real tmux, under each containment.

The tests find survivors by a separate scan: environment, command line, directory, streams
and cgroup of every process on the machine.
"""

import os
import signal
import sys

import pytest
from support.world import wait_for_deaths

pytestmark = pytest.mark.tmux

CGROUP = pytest.param("cgroup", marks=pytest.mark.needs("cgroup"))
CONTAINMENTS = [CGROUP, "subreaper", "scan"]
FORK = (
    "import os, signal, sys, time\n"
    "def leave():\n"
    "    if os.fork(): os._exit(0)\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\n"
)
NESTED = "-S $PWD/nested.sock -f /dev/null"
OURS = "-S $ORCHESTRATOR_ROOT/tmux.sock"
PANE = "=agent_$ORCHESTRATOR_AGENT_ID:"
THEN = "echo ready; sleep 1000"
DEAF = 'trap "" TERM HUP; sleep 1000; sleep 1000'
READY = "print('ready', flush=True)\n"
EXEC = "os.execve('/bin/sleep', ['sleep', '1000'], {})\n"
HOP = (
    "until = time.monotonic() + 60\n"
    "while time.monotonic() < until:\n"
    "    if os.fork(): os._exit(0)\n"
)

#: Each writes "ready" to its log when it is in its final form.
AGENTS = {
    "plain": ["sh", "-c", "echo ready; exec sleep 1000"],
    "deaf": ["sh", "-c", "trap '' HUP TERM INT; echo ready; sleep 1000; sleep 1000"],
    "setsid": ["sh", "-c", "setsid sleep 1000 & echo ready; exec sleep 1000"],
    "nohup": ["sh", "-c", "nohup sleep 1000 >/dev/null 2>&1 & echo ready; exec sleep 1000"],
    "stopped": ["sh", "-c", "echo ready; kill -STOP $$"],
    "job control": ["bash", "--norc", "-ic", "sleep 1000 & sleep 1000 & echo ready; wait"],
    "leaves a daemon": [
        sys.executable,
        "-c",
        f"{FORK}if os.fork(): time.sleep(1000)\nleave()\n{READY}time.sleep(1000)",
    ],
    "nested tmux": [
        "sh",
        "-c",
        f"tmux {NESTED} new-session -d 'sleep 1000'; {THEN}",
    ],
    "run-shell of a nested tmux": [
        "sh",
        "-c",
        f"tmux {NESTED} new-session -d 'sleep 1000' \\; run-shell -b '{DEAF}'; {THEN}",
    ],
    "run-shell of the very server it runs on": [
        "sh",
        "-c",
        f"tmux {OURS} run-shell -b -t {PANE} 'cd $PWD; {DEAF}'; {THEN}",
    ],
}
#: After the end of its parents no scan can relate such a process to the agent; a container can.
HIDDEN = {
    "emptied environment": [
        sys.executable,
        "-c",
        f"{FORK}if os.fork(): time.sleep(1000)\nleave()\n{READY}{EXEC}",
    ],
    "forks ahead": [
        sys.executable,
        "-c",
        f"{FORK}{READY}{HOP}",
    ],
}


def _deployed(scene, command, monkeypatch, containment):
    monkeypatch.setenv("ORCHESTRATOR_CONTAINMENT", containment)
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("tried").id, scene.spec(*command))
    _until_ready(scene, agent.id)
    return orch, agent


def _until_ready(scene, agent_id):
    """Return when the agent has written "ready": tail follows the log and ends at that line."""
    [log] = scene.root.glob(f"TASK-*/logs/{agent_id}_stream.jsonl")
    scene.follow(log, until=b"ready")


@pytest.mark.parametrize("containment", CONTAINMENTS)
@pytest.mark.parametrize("kind", AGENTS)
def test_no_process_of_a_hostile_agent_survives(kind, containment, scene, monkeypatch):
    """After the end of an agent none of its processes is alive, whatever it did."""
    orch, agent = _deployed(scene, AGENTS[kind], monkeypatch, containment)
    assert scene.world.of_agent(agent.id)

    end = orch.terminate(agent.id)

    assert {} == scene.world.processes()
    assert (True, ()) == (end.success, end.errors)
    assert (containment, containment != "scan") == (end.method, end.verified_no_zombies)
    assert end.duration_ms < 5000
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("containment", [CGROUP, "subreaper"])
@pytest.mark.parametrize("kind", HIDDEN)
def test_no_process_survives_that_a_scan_cannot_find(kind, containment, scene, monkeypatch):
    """A daemon without an environment ends, too, and so does one that forks faster than a scan."""
    orch, agent = _deployed(scene, HIDDEN[kind], monkeypatch, containment)

    end = orch.terminate(agent.id)

    assert {} == scene.world.until_alone(timeout_s=0)
    assert (True, containment, True) == (end.success, end.method, end.verified_no_zombies)
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("containment", CONTAINMENTS)
def test_an_unproved_end_is_not_reported_as_proved(containment, scene, monkeypatch):
    """Without the supervisor, only a cgroup still lists all processes that the agent started."""
    orch, agent = _deployed(scene, AGENTS["leaves a daemon"], monkeypatch, containment)
    _kill_supervisor(scene, agent.id)

    end = orch.terminate(agent.id)

    assert {} == scene.world.processes()
    assert (containment == "cgroup") == end.verified_no_zombies
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("kind", ["plain", "deaf", "leaves a daemon", "nested tmux"])
def test_a_session_killed_by_a_user_ends_all_processes_of_the_agent(kind, scene, monkeypatch):
    """The supervisor handles ``tmux kill-session`` by hand as it handles any other end."""
    orch, agent = _deployed(scene, AGENTS[kind], monkeypatch, "auto")

    scene.world.tmux("kill-session", "-t", f"=agent_{agent.id}")
    end = orch.wait(agent.id, timeout_s=20)

    assert ("terminated", "hangup", True) == (end.status, end.by, end.success)
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers()


def test_an_agent_cannot_end_its_siblings_with_a_bare_kill_server(scene):
    """The agent does not get TMUX, so its own tmux commands do not reach the server it runs on."""
    orch = scene.orchestrator()
    task = orch.create_task("tried")
    sibling = orch.deploy(task.id, scene.spec())
    env = {"TMUX_TMPDIR": str(scene.work)}
    agent = orch.deploy(task.id, scene.spec("tmux", "kill-server", env=env))
    orch.wait(agent.id, timeout_s=20)

    assert [f"agent_{sibling.id}"] == scene.world.sessions()
    assert orch.agent(sibling.id).is_active


def test_a_bystander_with_the_same_command_line_is_not_touched(scene):
    """A process with the agent's id and session name in its command line survives."""
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("tried").id, scene.spec())
    words = [
        agent.id,
        agent.tmux_session,
        f"ORCHESTRATOR_COOKIE=oc_{scene.world.root_id}_{agent.id}",
    ]
    code = "import time; time.sleep(1000)"
    bystander = os.posix_spawn(
        sys.executable, [sys.executable, "-c", code, *words], {"PATH": os.defpath}
    )
    try:
        orch.terminate(agent.id)
        assert (0, 0) == os.waitpid(bystander, os.WNOHANG)
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)


def test_a_stopped_supervisor_is_ended_in_bounded_time(scene, monkeypatch):
    """SIGSTOP does not delay the end beyond its limit."""
    orch, agent = _deployed(scene, AGENTS["plain"], monkeypatch, "auto")
    [pane] = scene.world.panes(agent.id)
    os.kill(pane, signal.SIGSTOP)

    end = orch.terminate(agent.id)

    assert (True, True) == (end.success, end.duration_ms < 5000)
    assert [] == scene.world.leftovers()


def _kill_supervisor(scene, agent_id):
    [pane] = scene.world.panes(agent_id)
    os.kill(pane, signal.SIGKILL)
    wait_for_deaths([pane], timeout_s=20)
