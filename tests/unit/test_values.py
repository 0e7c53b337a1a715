"""The values that callers pass and get: statuses, tasks in their order, and wrong types."""

from __future__ import annotations

import inspect
import json
import math
import re
from types import SimpleNamespace

import attrs
import pytest
from support.clock import next_millisecond

import orchestrator_core
from orchestrator_core import Agent, AgentSpec, EndReport, Orchestrator, Status
from orchestrator_core.cli import commands
from orchestrator_core.exceptions import DeploymentError, InvalidInput, NotFound
from orchestrator_core.testing import Exits, Scene

SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])


@pytest.fixture
def scene():
    with Scene() as made:
        yield made


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def agent(orch):
    return orch.deploy(orch.create_task("tried").id, SPEC)


# --- statuses ------------------------------------------------------------------------------------


def test_a_status_is_its_text_everywhere(orch, agent):
    assert [agent] == orch.agents(status=Status.RUNNING) == orch.agents(status="running")
    assert Status.RUNNING is agent.status
    assert "working" == orch.report_progress(agent.id, Status.WORKING).line["status"]
    assert [Status.WORKING] == [each.status for each in orch.read_progress(agent.id)]
    end = orch.terminate(agent.id)
    assert ("terminated", Status.TERMINATED) == (end.status, end.status)
    assert Status.TERMINATED is orch.agent(agent.id).status
    assert Status.TERMINATED is EndReport.from_record(orch.agent(agent.id).record).status
    assert "terminated" == json.loads(json.dumps(end.to_dict()))["status"] == f"{end.status}"


def test_a_report_may_end_the_agent_by_a_status(orch, agent):
    end = orch.report_progress(agent.id, Status.COMPLETED).end

    assert end.status == Status.COMPLETED


def test_a_status_of_the_old_system_stays_its_text():
    agent = Agent.from_record("TASK-1", {"id": "a-1", "status": "phase_completed"})

    assert "phase_completed" == agent.status


@pytest.mark.parametrize("status", ["Status.RUNNING", "done", 5, None, ["running"]])
def test_what_is_no_status_is_refused(orch, agent, status):
    with pytest.raises(InvalidInput, match="is no status"):
        orch.report_progress(agent.id, status)


# --- tasks ---------------------------------------------------------------------------------------


def test_tasks_and_agents_are_listed_in_the_order_of_their_creation(orch):
    names = [str(number) for number in range(8)]
    made = [next_millisecond() and orch.create_task(name).id for name in names]
    agents = [next_millisecond() and orch.deploy(task, SPEC).id for task in made]

    assert names == [task.description for task in orch.tasks()]
    assert agents == [agent.id for agent in orch.agents()]


def test_the_status_of_a_task_follows_its_agents(orch):
    task = orch.create_task("tried")
    assert "INITIALIZED" == task.status == orch.task(task.id).status
    agent = orch.deploy(task.id, SPEC)
    other = orch.deploy(task.id, SPEC)
    orch.terminate(agent.id)
    assert ["ACTIVE"] == [each.status for each in orch.tasks()]
    orch.terminate(other.id)
    assert "ENDED" == orch.task(task.id).status


def test_a_task_that_needs_no_agent_is_discarded(orch):
    task = orch.create_task("tried")

    assert orch.discard_task(task.id)

    assert [] == orch.tasks()
    assert [] == [each.name for each in orch.root.iterdir() if "TASK" in each.name]
    assert orch.repair(dry_run=True).clean
    with pytest.raises(NotFound):
        orch.discard_task(task.id)


def test_a_task_with_an_agent_is_not_discarded(orch, agent):
    assert not orch.discard_task(agent.task_id)
    orch.terminate(agent.id)
    assert not orch.discard_task(agent.task_id)
    assert [agent.task_id] == [task.id for task in orch.tasks()]


# --- types ---------------------------------------------------------------------------------------


def test_the_type_of_every_result_is_importable_from_the_package():
    methods = [value for name, value in inspect.getmembers(Orchestrator) if name[0] != "_"]
    results = " ".join(each.__annotations__["return"] for each in methods if callable(each))

    assert set() == (
        {*re.findall(r"[A-Z]\w+", results)}
        - {*orchestrator_core.__all__, "Any", "BinaryIO", "None"}
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"deadline_s": "5"},
        {"deadline_s": math.nan},
        {"silent_after_s": [5]},
        {"env": {"A": 1}},
        {"env": {1: "A"}},
        {"env": ["A=1"]},
        {"prompt": 5},
        {"prompt": b"do it"},
        {"command": None},
        {"command": 5},
        {"command": ["sleep", 5]},
        {"cwd": 5},
        {"type": 5},
        {"key": 5},
        {"parent": 5},
        {"preset": ["claude"]},
    ],
    ids=repr,
)
def test_a_spec_of_wrong_types_is_refused(wrong):
    with pytest.raises(InvalidInput):
        attrs.evolve(SPEC, **wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda orch, _: orch.create_task(5),
        lambda orch, _: orch.create_task("d", priority=2),
        lambda orch, _: orch.create_task("d", client_cwd=5),
        lambda orch, _: orch.create_task("d", key=5),
        lambda orch, _: orch.create_task("d", extra=["a"]),
        lambda orch, agent: orch.deploy(agent.task_id, {"type": "a"}),
        lambda orch, agent: orch.deploy(agent.task_id, SPEC, grace_s="5"),
        lambda orch, _: orch.deploy(5, SPEC),
        lambda orch, agent: orch.wait(agent.id, timeout_s="5"),
        lambda orch, agent: orch.wait(agent.id, timeout_s=None),
        lambda orch, agent: orch.terminate(agent.id, reason=5),
        lambda orch, agent: orch.report_progress(agent.id, progress="5"),
        lambda orch, agent: orch.report_progress(agent.id, progress=5.5),
        lambda orch, agent: orch.report_progress(agent.id, message=5),
        lambda orch, agent: orch.report_finding(agent.id, 5),
        lambda orch, agent: orch.report_finding(agent.id, "m", finding_type=5),
        lambda orch, agent: orch.report_finding(agent.id, "m", severity=["low"]),
        lambda orch, agent: orch.read_findings(agent.id, last="5"),
        lambda orch, agent: orch.read_progress(agent.id, last=-1),
        lambda orch, _: orch.agents(status=5),
        lambda orch, _: orch.agents(task_id=5),
        lambda orch, _: orch.agent(5),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(orch, agent, call):
    with pytest.raises(InvalidInput):
        call(orch, agent)

    assert [agent.task_id] == [task.id for task in orch.tasks()]
    assert [agent] == orch.agents()


# --- the command ---------------------------------------------------------------------------------


def test_a_failed_deployment_for_a_new_task_leaves_no_task(scene):
    scene.terminal.default = Exits(3)

    def deploy(key):
        arguments = SimpleNamespace(new_task="tried", key=key, grace=5.0)
        with pytest.raises(DeploymentError):
            commands._deploy_for_new_task(scene.orchestrator(), SPEC, arguments)
        return [task.description for task in scene.orchestrator().tasks()]

    assert [] == deploy(None)
    assert ["tried"] == deploy("one")  # The next call with the key uses it.
