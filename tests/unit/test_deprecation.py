"""Renamed public names: the old one still works for a release, and warns at the user's line."""

from __future__ import annotations

import sys
import types

import pytest

from orchestrator_core.system.deprecation import renamed


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
