"""Looks that many share: each knows no less than if he had looked himself."""

import os
import time

import pytest

from orchestrator_core.system import shared_scan
from orchestrator_core.system.shared_scan import SharedScan


class Looks:
    """Looks at nothing, counted."""

    def __init__(self):
        self.passes = SharedScan("things")
        self.number = 0
        self.error = None

    def since(self, moment):
        return self.passes.get(self._look, since=moment)

    def now(self):
        return self.since(time.monotonic())

    def _look(self):
        self.number += 1
        if self.error is not None:
            raise self.error
        return self.number


@pytest.fixture
def looks():
    return Looks()


def test_who_may_know_what_was_so_since_a_moment_shares_a_pass_that_began_after_it(looks):
    long_ago = time.monotonic()

    assert 1 == looks.now()
    assert 1 == looks.since(long_ago)
    now = time.monotonic()
    assert 2 == looks.since(now), "the last pass began before that"
    assert 2 == looks.since(now)
    assert 3 == looks.now(), "and who asks for now has a pass that begins now"


def test_a_pass_that_failed_tells_nobody_later_anything(looks):
    long_ago = time.monotonic()
    looks.error = OSError("out of descriptors")
    with pytest.raises(OSError, match="descriptors"):
        looks.now()
    looks.error = None

    assert 2 == looks.since(long_ago)


def test_a_pass_that_is_interrupted_tells_nobody_later_anything(looks):
    """Not even that there is nobody: an end would leave all of an agent's processes alive."""
    long_ago = time.monotonic()
    looks.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        looks.now()
    looks.error = None

    assert 2 == looks.since(long_ago)
    assert 3 == looks.now()


def test_who_is_interrupted_before_its_pass_strands_no_other(looks):
    class Interrupted:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *_):
            raise AssertionError

    turn = looks.passes._run_lock
    looks.passes._run_lock = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        looks.now()
    looks.passes._run_lock = turn

    assert 1 == looks.now()


def test_a_pass_does_not_serve_late_comers_for_ever(looks, monkeypatch):
    monkeypatch.setattr(shared_scan, "_TTL_S", 0.0)
    long_ago = time.monotonic()

    assert 1 == looks.now()
    assert 2 == looks.since(long_ago)


def test_a_child_that_was_forked_in_the_middle_of_a_pass_looks_for_itself(looks):
    """The thread that was looking is not in the child, and would be waited for for ever."""
    with looks.passes._run_lock, looks.passes._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if looks.now() == 1 else 1)

    assert (child, 0) == os.waitpid(child, 0)
