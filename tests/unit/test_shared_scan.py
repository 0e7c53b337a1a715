"""Shared scans: each caller's answer is as new as if the caller had scanned alone."""

import os
import sys
import threading
import time

import pytest

from orchestrator_core.system import shared_scan
from orchestrator_core.system.shared_scan import SharedScan

LONG_S = 20


class Scans:
    """Scans of nothing, numbered."""

    def __init__(self):
        self.shared = SharedScan(self._scan)
        self.number = 0
        self.error = None

    def since(self, moment):
        return self.shared.get(since=moment)

    def now(self):
        return self.since(time.monotonic())

    def _scan(self):
        self.number += 1
        if self.error is not None:
            raise self.error
        return self.number


@pytest.fixture
def scans():
    return Scans()


def test_a_caller_shares_a_scan_that_began_after_the_time_it_names(scans):
    long_ago = time.monotonic()

    assert 1 == scans.now()
    assert 1 == scans.since(long_ago)
    now = time.monotonic()
    assert 2 == scans.since(now), "the last scan began before that"
    assert 2 == scans.since(now)
    assert 3 == scans.now(), "a caller that names the present gets a scan that begins now"


def test_a_failed_scan_answers_no_later_caller(scans):
    long_ago = time.monotonic()
    scans.error = OSError("out of descriptors")
    with pytest.raises(OSError, match="descriptors"):
        scans.now()
    scans.error = None

    assert 2 == scans.since(long_ago)


def test_a_failed_scan_answers_the_callers_that_waited_for_it():
    """Fifty callers of a server that hangs wait for one timeout, not for fifty."""
    long_ago = time.monotonic()
    scanning, go_on, errors = threading.Event(), threading.Event(), []

    def scan():
        scanning.set()
        assert go_on.wait(LONG_S)
        raise OSError("no answer")

    shared = SharedScan(scan)

    def call():
        try:
            shared.get(since=long_ago)
        except OSError as error:
            errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    assert scanning.wait(LONG_S)
    while sum("arrived" in _locals(caller) for caller in callers) < len(callers):
        os.sched_yield()
    go_on.set()
    for caller in callers:
        caller.join(LONG_S)

    assert 3 == len(errors)
    assert 1 == len(set(map(id, errors)))


def _locals(thread):
    """Return the local variables of the call to ``get`` that *thread* is in."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None and frame.f_code.co_name != "get":
        frame = frame.f_back
    return frame.f_locals if frame is not None else {}


def test_an_interrupted_scan_answers_no_later_caller(scans):
    """An empty answer would leave all of an agent's processes alive."""
    long_ago = time.monotonic()
    scans.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        scans.now()
    scans.error = None

    assert 2 == scans.since(long_ago)
    assert 3 == scans.now()


def test_a_caller_interrupted_before_its_scan_blocks_no_other_caller(scans):
    class Interrupted:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *_):
            raise AssertionError

    lock = scans.shared._lock
    scans.shared._lock = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        scans.now()
    scans.shared._lock = lock

    assert 1 == scans.now()


def test_an_old_scan_answers_no_caller(scans, monkeypatch):
    monkeypatch.setattr(shared_scan, "_TTL_S", 0.0)
    long_ago = time.monotonic()

    assert 1 == scans.now()
    assert 2 == scans.since(long_ago)


def test_a_child_forked_during_a_scan_scans_for_itself(scans):
    """The scanning thread does not exist in the child, so its lock is never released there."""
    with scans.shared._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if scans.now() == 1 else 1)

    assert (child, 0) == os.waitpid(child, 0)
