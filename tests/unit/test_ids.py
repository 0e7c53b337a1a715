"""Ids: what may name a task, an agent, and everything they hold."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.model import ids
from orchestrator_core.system.names import check_id

SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

HOSTILE = [
    *("", ".", "..", "a/b", "../a", "/etc/passwd", "a\0b", "a\nb", "a\n", "\na", "a:b", "a.b"),
    *("#(touch x)", "$(id)", "`id`", "a b", "a'b", 'a"b', "a;b", "a,b", "{a}", "=a", "@1", "$3"),
    *("-a", "_a", "é", "ａ", "١", "a" * 101, "x" * 300, None, 7, b"a", ["a"]),  # noqa: RUF001 - look-alikes
]


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_id_is_refused(value):
    """What means something to a shell, a file system or tmux names nothing."""
    with pytest.raises(InvalidId) as refusal:
        check_id("agent", value)
    assert str(refusal.value).startswith("agent ")


@pytest.mark.parametrize("value", ["a", "0", "a" * 100, "TASK-20260101-120000-0a1b2c3d", "A_b-9"])
def test_a_plain_id_is_returned_as_it_is(value):
    assert value == check_id("agent", value)


@given(st.text(max_size=120))
def test_an_id_that_passes_is_safe_and_any_other_is_refused(text):
    safe = 1 <= len(text) <= 100 and set(text) <= set(SAFE) and text[0] not in "_-"
    try:
        check_id("task", text)
    except InvalidId:
        assert not safe
    else:
        assert safe


def test_a_refusal_quotes_no_more_than_is_useful():
    """Nor does a megabyte of hostile id become a megabyte of message."""
    with pytest.raises(InvalidId) as refusal:
        check_id("agent", "\x1b" * 1_000_000)
    assert len(str(refusal.value)) < 80
    assert "\x1b" not in str(refusal.value)


def test_new_ids_are_ids_of_the_old_form_and_hardly_ever_twice():
    """In one of a thousand runs, two agents in 200 have the same 24 bits."""
    tasks = {ids.new_task_id() for _ in range(200)}
    agents = {ids.new_agent_id("investigator") for _ in range(200)}
    assert 200 == len(tasks)
    assert len(agents) >= 199
    assert all(re.fullmatch(r"TASK-\d{8}-\d{6}-[0-9a-f]{8}", task) for task in tasks)
    assert all(re.fullmatch(r"investigator-\d{6}-[0-9a-f]{6}", agent) for agent in agents)


@pytest.mark.parametrize("agent_type", ["", "a.b", "a:b", "it's", "a" * 61, "%Y%", None])
def test_a_type_that_could_not_be_part_of_an_id_is_refused(agent_type):
    with pytest.raises(InvalidId):
        ids.new_agent_id(agent_type)


def test_the_longest_type_makes_an_id_that_passes():
    agent = ids.new_agent_id("t" * 60)
    assert agent == check_id("agent", agent)


def test_what_an_agent_holds_is_named_after_it_and_its_root():
    """The id leads to the resources again when every record is lost."""
    assert "agent_a-1" == ids.session_name("a-1")
    assert (
        "oc_0a1b2c3d_a-1"
        == ids.process_cookie("0a1b2c3d", "a-1")
        == ids.cgroup_name("0a1b2c3d", "a-1")
    )
    assert ids.process_cookie("00000001", "a-1") != ids.process_cookie("00000002", "a-1")
