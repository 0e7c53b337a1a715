"""
How to test an orchestrator of your own: with neither tmux nor time.

The fake plays sessions, processes and the clock; what is written is written to real
files. A fake agent's life is a script, chosen by the name of its program, which
has to exist and is never run.

::

    pytest examples/test_with_fake.py
"""

from __future__ import annotations

import pytest

from orchestrator_core import AgentSpec, DeploymentError, EndReport, Orchestrator
from orchestrator_core.testing import Exits, FakeTerminal, Runs

# --- what is tested: it would stand in a module of yours ----------------------------------


def insist(orch: Orchestrator, task_id: str, spec: AgentSpec, *, tries: int) -> EndReport:
    """Deploy an agent until one completes, or all tries have failed; give each an hour."""
    for _ in range(tries):
        agent = orch.deploy(task_id, spec)
        end = orch.wait(agent.id, timeout_s=3600)
        if end.status == "completed":
            break
    return end


# --- the tests ------------------------------------------------------------------------------

SPEC = AgentSpec(type="worker", prompt="Do it.", command=["sleep", "1"])


@pytest.fixture
def fake():
    return FakeTerminal()


@pytest.fixture
def orch(tmp_path, fake):
    return Orchestrator(tmp_path / "root", terminal=fake)


@pytest.fixture
def task_id(orch):
    return orch.create_task("a task").id


def test_one_success_is_enough(orch, task_id, fake):
    fake.agents["sleep"] = Exits(0, after_s=600)

    assert "completed" == insist(orch, task_id, SPEC, tries=3).status
    assert 1 == len(orch.agents())


def test_it_gives_up_and_leaves_nothing(orch, task_id, fake):
    """Three agents have failed, half an hour has passed, and no session is left."""
    fake.agents["sleep"] = Exits(7, after_s=600)

    assert 7 == insist(orch, task_id, SPEC, tries=3).exit_code
    assert ["failed"] * 3 == [agent.status for agent in orch.agents()]
    assert pytest.approx(1800) == fake.now
    assert () == fake.sessions()


def test_a_stubborn_agent_can_be_ended(orch, task_id, fake):
    fake.agents["sleep"] = Runs(ignores_term=True, daemon=True)
    agent = orch.deploy(task_id, SPEC)

    assert orch.terminate(agent.id).success
    assert () == fake.alive()


def test_a_terminal_that_fails_leaves_nothing(orch, task_id, fake):
    """The session was started, and the answer got lost: it is found by its name, and undone."""
    fake.fail("start", after=True)

    with pytest.raises(DeploymentError) as caught:
        insist(orch, task_id, SPEC, tries=3)

    assert () == caught.value.leaked
    assert () == fake.sessions()
    assert [] == orch.agents()
