"""Fixtures of the unit tests."""

import pytest
from support.fakes import a_fake_scene


@pytest.fixture
def fake_scene():
    """A root with real files, on a fake terminal."""
    with a_fake_scene() as made:
        yield made
