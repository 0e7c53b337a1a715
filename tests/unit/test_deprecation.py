"""Renamed public names: the old one still works for a release, and warns at the user's line."""

from __future__ import annotations

import sys
import types

import pytest

from orchestrator_core.system.deprecation import renamed, renamed_attributes, renamed_keyword
from orchestrator_core.testing import FakeTerminal


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("some_room")
    module.NewName = object()
    module.__getattr__ = renamed("some_room", {"OldName": "NewName"})
    monkeypatch.setitem(sys.modules, "some_room", module)
    return module


def test_an_old_name_is_the_new_one_and_warns_where_it_is_used(module):
    with pytest.warns(
        DeprecationWarning, match=r"some_room\.OldName is now some_room\.NewName"
    ) as seen:
        old = module.OldName

    assert module.NewName is old
    assert [__file__] == [each.filename for each in seen]


def test_an_unknown_name_is_an_attribute_error_as_everywhere(module):
    with pytest.raises(AttributeError, match="module 'some_room' has no attribute 'Nothing'"):
        _ = module.Nothing


@renamed_attributes(length="size")
class Thing:
    size = 3

    @renamed_keyword("many", "count")
    def take(self, count=1):
        return count


def test_an_old_attribute_is_the_new_one_and_warns_where_it_is_used():
    with pytest.warns(DeprecationWarning, match=r"Thing\.length is now Thing\.size") as seen:
        length = Thing().length

    assert (3, [__file__]) == (length, [each.filename for each in seen])


def test_an_attribute_that_was_never_there_is_an_error():
    with pytest.raises(AttributeError, match="'Thing' object has no attribute 'width'"):
        _ = Thing().width


def test_an_old_keyword_is_passed_as_the_new_one_and_warns_where_it_is_used():
    with pytest.warns(DeprecationWarning, match=r"Thing\.take\(many=\) is now count=") as seen:
        taken = Thing().take(many=2)

    assert (2, [__file__]) == (taken, [each.filename for each in seen])
    assert 4 == Thing().take(count=4)


def test_an_old_method_of_the_fake_is_the_new_one_and_warns():
    fake = FakeTerminal()

    with pytest.warns(DeprecationWarning, match=r"is now FakeTerminal\.inspect") as seen:
        look = fake.look
    with pytest.warns(DeprecationWarning, match=r"is now FakeProcesses\.find_tagged"):
        marked = fake.processes.marked

    assert (fake.inspect, fake.processes.find_tagged) == (look, marked)
    assert [__file__] == [each.filename for each in seen]


def test_the_fake_fails_a_call_by_its_old_name():
    fake = FakeTerminal()

    with pytest.warns(DeprecationWarning, match="the call 'end' is now 'kill'"):
        fake.fail("end", KeyError)

    with pytest.raises(KeyError):
        fake.kill("agent_1", owner="c1")
