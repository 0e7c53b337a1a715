"""Safe names: the ids that may be part of file names, tmux targets and cgroups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_core.exceptions import InvalidId
from orchestrator_core.system.names import check_id

SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

HOSTILE = [
    *("", ".", "..", "a/b", "../a", "/etc/passwd", "a\0b", "a\nb", "a\n", "\na", "a:b", "a.b"),
    *("#(touch x)", "$(id)", "`id`", "a b", "a'b", 'a"b', "a;b", "a,b", "{a}", "=a", "@1", "$3"),
    *("-a", "_a", "é", "ａ", "١", "a" * 101, "x" * 300, None, 7, b"a", ["a"]),  # noqa: RUF001 - look-alikes
]


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_a_hostile_id_is_refused(value):
    """An id has no character with a meaning to a shell, a file system or tmux."""
    with pytest.raises(InvalidId) as refusal:
        check_id("agent", value)
    assert str(refusal.value).startswith("agent ")


@pytest.mark.parametrize("value", ["a", "0", "a" * 100, "TASK-20260101-120000-0a1b2c3d", "A_b-9"])
def test_a_safe_id_is_returned_unchanged(value):
    assert value == check_id("agent", value)


@given(st.text(max_size=120))
def test_every_accepted_id_is_safe_and_every_other_is_refused(text):
    safe = 1 <= len(text) <= 100 and set(text) <= set(SAFE) and text[0] not in "_-"
    try:
        check_id("task", text)
    except InvalidId:
        assert not safe
    else:
        assert safe


def test_a_refusal_quotes_a_short_part_of_the_value():
    """A megabyte of hostile id does not become a megabyte of message."""
    with pytest.raises(InvalidId) as refusal:
        check_id("agent", "\x1b" * 1_000_000)
    assert len(str(refusal.value)) < 80
    assert "\x1b" not in str(refusal.value)
