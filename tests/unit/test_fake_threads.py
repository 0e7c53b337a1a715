"""The fake world has one clock for all threads, and acts as its agents do."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_core import AgentSpec, DeploymentError, WaitTimeout
from orchestrator_core.aio import AsyncOrchestrator
from orchestrator_core.testing import Exits, Runs, Scene

SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])
LONG_S = 20


@pytest.fixture
def scene():
    with Scene() as made:
        made.terminal.agents["sleep"] = Exits(0, after_s=60)
        yield made


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


# --- one clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", range(3))
def test_agents_that_threads_wait_for_live_at_the_same_time(scene, orch, task, run):
    """The time of one thread's wait is not added to the next one's."""

    def one(_):
        agent = orch.deploy(task, SPEC)
        return orch.wait(agent.id, timeout_s=3600).status

    with ThreadPoolExecutor(3) as pool:
        assert ["completed"] * 6 == list(pool.map(one, range(6)))

    assert scene.terminal.now < 60 * 4, run


@pytest.mark.parametrize("run", range(3))
def test_agents_that_tasks_wait_for_live_at_the_same_time(scene, orch, task, run):
    async def main():
        wrapper = AsyncOrchestrator.wrapping(orch)

        async def one():
            agent = await wrapper.deploy(task, SPEC)
            return (await wrapper.wait(agent.id, timeout_s=3600)).status

        return await asyncio.gather(*(one() for _ in range(6)))

    assert ["completed"] * 6 == asyncio.run(main())
    assert scene.terminal.now < 60 * 2, run


def test_a_thread_with_a_nearer_deadline_is_on_time(scene, orch, task):
    scene.terminal.agents["sleep"] = Runs()
    agent = orch.deploy(task, SPEC)
    ends = []

    def wait(timeout_s):
        with pytest.raises(WaitTimeout):
            orch.wait(agent.id, timeout_s=timeout_s)
        ends.append(timeout_s)

    threads = [threading.Thread(target=wait, args=[s]) for s in (300, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)

    assert [100, 200, 300] == ends
    assert 300 == pytest.approx(scene.terminal.now, abs=5)


@pytest.mark.parametrize("timeout_s", [30 * 86400, 1e300, math.inf])
def test_a_wait_may_be_any_time(orch, task, timeout_s):
    agent = orch.deploy(task, SPEC)

    assert "completed" == orch.wait(agent.id, timeout_s=timeout_s).status


def test_a_wait_that_nothing_can_end_raises(scene, orch, task):
    scene.terminal.agents["sleep"] = Runs()
    agent = orch.deploy(task, SPEC)

    with pytest.raises(RuntimeError, match="ever end"):
        orch.wait(agent.id, timeout_s=math.inf)


# --- as the agents -------------------------------------------------------------------------------


def test_a_call_inside_an_agent_means_that_agent(scene, orch, task):
    scene.terminal.agents["sleep"] = Runs()
    agent = orch.deploy(task, SPEC)

    with scene.terminal.inside(agent.tmux_session):
        orch.report_progress(status="working", progress=50)
        child = orch.deploy(task, SPEC)
        end = orch.report_progress(status="completed").end

    assert (50, agent.id) == (orch.agent(agent.id).progress, child.parent)
    assert end.handed_over
    assert "completed" == orch.wait(agent.id, timeout_s=60).status


def test_a_program_has_one_life_after_another(scene, orch, task):
    scene.terminal.agents["sleep"] = [Exits(5), Exits(0, after_s=5)]

    with pytest.raises(DeploymentError, match="exit status 5"):
        orch.deploy(task, SPEC, grace_s=1)
    for _ in range(2):
        agent = orch.deploy(task, SPEC, grace_s=1)
        assert "completed" == orch.wait(agent.id, timeout_s=60).status
