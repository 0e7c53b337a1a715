"""
An agent that reports its own end from inside its own session, on real tmux.

The unwinding would kill the caller. So the intent is made durable first, the caller gets its
answer, and a process outside the agent does the rest, even if any of them is killed at any
time.
"""

import json
import os
import signal
import sys

import pytest
from support.world import wait_for_deaths

from orchestrator_core.model.outcome import terminal_reason
from orchestrator_core.model.status import Status

pytestmark = pytest.mark.tmux

REPORT = f"{sys.executable} -m orchestrator_core --json progress --status completed --message bye"
#: The agent goes on after its report until it is killed.
THEN = 'echo "answered: $?"; sleep 1000'

WAYS = {
    "itself": f"{REPORT}; {THEN}",
    "a grandchild": f"sh -c 'sh -c \"{REPORT}; echo answered: \\$?\"'; sleep 1000",
    "a double-forked child": f"(setsid sh -c '{REPORT}; {THEN}' &); sleep 1000",
    "one with an emptied environment that names its id": (
        f"env -i PYTHONPATH=$PYTHONPATH {REPORT.replace('--json', '--json --root $R')}"
        f" $ORCHESTRATOR_AGENT_ID; {THEN}".replace("$R", "$ORCHESTRATOR_ROOT")
    ),
    "one that exits at once": f'{REPORT}; echo "answered: $?"; exit 7',
}


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


def deploy(scene, orch, script, **how):
    env = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))), **how}
    return orch.deploy(orch.create_task("tried").id, scene.spec("sh", "-c", script, env=env))


def answered(scene, agent):
    """Wait for the caller's answer in the log, which may be in the archive by then."""
    [task] = scene.root.glob("TASK-*")
    logs = [task / place / f"{agent.id}_stream.jsonl" for place in ("logs", "archive")]
    return scene.follow(*logs, until=b"answered")


@pytest.mark.parametrize(
    "containment",
    [pytest.param("cgroup", marks=pytest.mark.needs("cgroup")), "subreaper", "scan"],
)
@pytest.mark.parametrize("way", WAYS)
def test_an_agent_that_reports_its_own_end_gets_its_answer_before_it_is_ended(
    way, containment, scene, orch, monkeypatch
):
    """First exit status 0 and the receipt, then every process is gone."""
    monkeypatch.setenv("ORCHESTRATOR_CONTAINMENT", containment)
    orch = scene.orchestrator()
    agent = deploy(scene, orch, WAYS[way], ORCHESTRATOR_CONTAINMENT=containment)

    end = orch.wait(agent.id, timeout_s=20)

    assert ("completed", "report", True) == (end.status, end.by, end.success)
    output = orch.read_output(agent.id)
    assert "answered: 0" in output
    receipt = json.loads(output.split("answered")[0])
    assert (True, True) == (receipt["recorded"], receipt["end"]["handed_over"])
    assert "completed" == orch.agent(agent.id).status
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_the_reported_status_stays_whatever_the_exit_status(status, scene, orch):
    """The report came first. A later exit status is only recorded."""
    agent = deploy(scene, orch, REPORT.replace("completed", status) + "; exit 7")

    end = orch.wait(agent.id, timeout_s=20)

    assert (status, 7) == (end.status, end.exit_code)
    assert (status, 7) == (orch.agent(agent.id).status, orch.agent(agent.id).exit_code)


def test_recovery_ends_the_agent_of_a_supervisor_killed_after_the_request(scene, orch):
    """The request is durable, so the next process that opens the root carries it out."""
    agent = deploy(scene, orch, f"trap '' TERM; {REPORT} & wait; {THEN}")
    [supervisor] = scene.world.panes(agent.id)
    # A stopped supervisor receives the signal only when it is dead.
    os.kill(supervisor, signal.SIGSTOP)
    answered(scene, agent)
    os.kill(supervisor, signal.SIGKILL)
    wait_for_deaths([supervisor], timeout_s=20)

    scene.orchestrator(recover=True)

    end = orch.wait(agent.id, timeout_s=20)
    assert ("completed", "report", True) == (end.status, end.by, end.success)
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("delay", range(20, 260, 40))
def test_a_caller_killed_at_any_time_has_made_its_request_or_not(delay, scene, orch):
    """The agent whose report is killed half-way is active or has completed."""
    script = f"timeout -s KILL 0.{delay:03} {REPORT}; echo answered; sleep 1000"
    agent = deploy(scene, orch, script)
    answered(scene, agent)

    if any(line["kind"] == "request" for line in scene.world.journal(agent.id)):
        end, status = orch.wait(agent.id, timeout_s=20), "completed"
    else:
        assert orch.agent(agent.id).is_active
        end, status = orch.terminate(agent.id), "terminated"

    assert (status, True) == (end.status, end.success)
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_wait_notifies_a_supervisor_that_missed_the_request(scene, orch):
    """The caller died between its durable request and the signal."""
    agent = deploy(scene, orch, "sleep 1000")
    with orch._terminator.sagas.open(agent.id) as saga:
        saga.request_end(terminal_reason(Status.COMPLETED, "done", by="report"))

    end = orch.wait(agent.id, timeout_s=20)

    assert ("completed", "report", True) == (end.status, end.by, end.success)
    assert [] == scene.world.leftovers()


@pytest.mark.parametrize("moment", ["link ", "rename .AGENT_REGISTRY", "pidfd_send_signal"])
def test_recovery_finishes_the_work_of_a_killed_unwinder(moment, scene, orch, actors):
    """The unwinder was killed while it unwound the agent."""
    agent = deploy(scene, orch, "sleep 1000")
    [supervisor] = scene.world.panes(agent.id)
    os.kill(supervisor, signal.SIGKILL)
    wait_for_deaths([supervisor], timeout_s=20)
    outcome = actors.do("finish", root=str(scene.root), agent=agent.id, kill_at=(moment, "before"))
    assert outcome["killed"]

    scene.orchestrator(recover=True)

    assert orch.wait(agent.id, timeout_s=20).success
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_wait_finishes_the_work_of_a_supervisor_killed_as_unwinder(scene, orch):
    """The agent has exited. Its supervisor, by now the unwinder, waits for the lock."""
    scene.gate("go")
    agent = deploy(scene, orch, "read go < go; exit 0")
    [supervisor] = scene.world.panes(agent.id)
    [events] = scene.root.glob(f"TASK-*/run/{agent.id}/events")
    with orch._terminator.sagas.open(agent.id, timeout_s=10):
        with scene.until_closed(events):  # The exec of the unwinder closes it.
            scene.let_go("go")
        os.kill(supervisor, signal.SIGKILL)
        wait_for_deaths([supervisor], timeout_s=20)

    end = orch.wait(agent.id, timeout_s=20)

    assert ("completed", 0, True) == (end.status, end.exit_code, end.success)
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_an_agent_deploys_and_ends_another_from_inside(scene, orch):
    """An agent can be an orchestrator: it is its child's parent, and the child ends with it."""
    code = (
        "import os; from orchestrator_core import AgentSpec, Orchestrator\n"
        "orch = Orchestrator()\n"
        "task = os.environ['ORCHESTRATOR_TASK_ID']\n"
        "spec = AgentSpec(type='child', prompt='p', command=['sleep', '1000'])\n"
        "lives = orch.deploy(task, spec)\n"
        "print(orch.terminate(orch.deploy(task, spec).id).success, flush=True)\n"
        "print('answered', lives.id, flush=True)\n"
    )
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    task = orch.create_task("tried")
    parent = orch.deploy(task.id, scene.spec(sys.executable, "-c", code, env=env))
    assert "completed" == orch.wait(parent.id, timeout_s=30).status

    output = orch.read_output(parent.id)
    assert output.startswith("True\nanswered"), output
    child = orch.agent(output.split()[-1])
    assert (parent.id, 2, "terminated") == (child.parent, child.depth, child.status)
    assert [] == scene.world.leftovers()
