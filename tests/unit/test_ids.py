"""Ids: new ones for tasks and agents, and the names of what an agent holds."""

import re

import pytest

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.model import ids
from orchestrator_core.system.names import check_id


def test_new_ids_have_the_legacy_form_and_hardly_ever_collide():
    """In one of a thousand runs, two of 200 agents have the same 24 bits."""
    tasks = {ids.new_task_id() for _ in range(200)}
    agents = {ids.new_agent_id("investigator") for _ in range(200)}
    assert 200 == len(tasks)
    assert len(agents) >= 199
    assert all(re.fullmatch(r"TASK-\d{8}-\d{6}-[0-9a-f]{8}", task) for task in tasks)
    assert all(re.fullmatch(r"investigator-\d{6}-[0-9a-f]{6}", agent) for agent in agents)


@pytest.mark.parametrize("agent_type", ["", "a.b", "a:b", "it's", "a" * 61, "%Y%", None])
def test_a_type_that_no_id_can_contain_is_refused(agent_type):
    with pytest.raises(InvalidId):
        ids.new_agent_id(agent_type)


def test_the_longest_type_makes_a_valid_id():
    agent = ids.new_agent_id("t" * 60)
    assert agent == check_id("agent", agent)


def test_an_agents_resources_are_named_after_it_and_its_root():
    """The id alone leads to the resources, even without any record."""
    assert "agent_a-1" == ids.session_name("a-1")
    assert (
        "oc_0a1b2c3d_a-1"
        == ids.process_cookie("0a1b2c3d", "a-1")
        == ids.cgroup_name("0a1b2c3d", "a-1")
    )
    assert ids.process_cookie("00000001", "a-1") != ids.process_cookie("00000002", "a-1")
