"""
Tests of an orchestrator of your own, without tmux, Claude Code or real time.

The fixtures come with the package. Sessions, processes and the clock are fake; the files are
real. A script defines a fake agent's life.

::

    cd examples/insistent && pytest
"""

from __future__ import annotations

import insistent
import pytest

from orchestrator_core import DeploymentError
from orchestrator_core.testing import Exits, Runs


@pytest.fixture(autouse=True)
def claude(no_leaks, fake_agent):  # noqa: ARG001 - asking for it is enough
    """Claude Code need not be installed, and no test may leave anything behind."""
    fake_agent("claude", Runs())


@pytest.fixture
def task_id(orchestrator):
    return orchestrator.create_task("a task").id


SPEC = insistent.spec_for("shop", "orders")


def test_one_success_is_enough(orchestrator, task_id, fake_agent):
    fake_agent("claude", Exits(0, after_s=600))

    assert "completed" == insistent.insist(orchestrator, task_id, SPEC, tries=3).status
    assert 1 == len(orchestrator.agents())


def test_the_orchestrator_gives_up(orchestrator, task_id, fake_agent, fake_terminal):
    """The orchestrator has tried three agents in 30 minutes."""
    fake_agent("claude", Exits(7, after_s=600))

    assert 7 == insistent.insist(orchestrator, task_id, SPEC, tries=3).exit_code
    assert ["failed"] * 3 == [agent.status for agent in orchestrator.agents()]
    assert pytest.approx(1800) == fake_terminal.now


def test_a_stubborn_agent_can_be_ended(orchestrator, task_id, fake_agent):
    fake_agent("claude", Runs(ignores_term=True, daemon=True))
    agent = orchestrator.deploy(task_id, SPEC)

    assert orchestrator.terminate(agent.id).success


def test_a_terminal_that_fails_leaves_nothing(orchestrator, task_id, fake_terminal):
    """The session was started, but the answer was lost. The undo finds it by its name."""
    fake_terminal.fail("start", after=True)

    with pytest.raises(DeploymentError) as caught:
        insistent.insist(orchestrator, task_id, SPEC, tries=3)

    assert () == caught.value.leaked
    assert [] == orchestrator.agents()


def test_a_killed_orchestrator_runs_again_and_deploys_no_agent_twice(crash_points):
    """Each effect is a crash point. The orchestrator then restarts, as by a service manager."""
    parts = ["orders", "search"]

    def staffs(orch):
        insistent.staff(orch, "shop", parts)

    def once_more(orch):
        agents = insistent.staff(orch, "shop", parts)
        assert agents == orch.agents(status="active")

    assert crash_points(staffs, then=once_more, at_most=40)
