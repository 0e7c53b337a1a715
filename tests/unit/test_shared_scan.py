"""Shared scans: each caller's answer is as new as if the caller had scanned alone."""

import os
import sys
import threading
import time

import pytest

from orchestrator_core.system.shared_scan import SharedScan

LONG_S = 20


class Scans:
    """Scans of nothing, numbered. A scan can be held up."""

    def __init__(self):
        self.shared = SharedScan(self._scan)
        self.number = 0
        self.error = None
        self.scanning, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def _scan(self):
        self.number += 1
        self.scanning.set()
        assert self.go_on.wait(LONG_S)
        if self.error is not None:
            raise self.error
        return self.number

    def during_one(self, callers):
        """Return what *callers* threads get that call while another caller's scan runs."""
        found = []

        def call():
            try:
                found.append(self.shared.get())
            except OSError as error:
                found.append(error)

        self.go_on.clear()
        first = in_thread(self.shared.get)
        assert self.scanning.wait(LONG_S)
        threads = [in_thread(call) for _ in range(callers)]
        while not all(is_waiting(thread) for thread in threads):
            os.sched_yield()
        return first, threads, found


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def is_waiting(thread):
    """Return whether *thread* has counted the scans at its call, and now waits for the lock."""
    frame = sys._current_frames().get(thread.ident)
    while frame is not None and frame.f_code.co_name != "get":
        frame = frame.f_back
    return frame is not None and "begun_before" in frame.f_locals


@pytest.fixture
def scans():
    return Scans()


def test_one_caller_after_another_gets_a_new_scan_each(scans):
    assert [1, 2] == [scans.shared.get(), scans.shared.get()]


def test_callers_during_a_scan_share_the_next_one(scans):
    """The scan under way may have passed by what has appeared since it began."""
    first, threads, found = scans.during_one(callers=5)
    scans.go_on.set()
    for thread in (first, *threads):
        thread.join(LONG_S)

    assert [2] * 5 == found


def test_a_failed_scan_answers_all_that_waited_for_it_and_no_later_caller(scans, monkeypatch):
    """Fifty callers of a table that cannot be read wait for one failure, not for fifty."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    first, threads, found = scans.during_one(callers=3)
    scans.error = OSError("out of descriptors")
    scans.go_on.set()
    for thread in (first, *threads):
        thread.join(LONG_S)
    scans.error = None

    assert [OSError] * 3 == [type(each) for each in found]
    assert 2 == scans.number
    assert 3 == scans.shared.get()


def test_an_interrupted_scan_answers_no_other_caller(scans):
    """An empty answer would leave all of an agent's processes alive."""
    scans.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        scans.shared.get()
    scans.error = None

    assert 2 == scans.shared.get()


def test_an_interrupted_scan_answers_no_caller_that_waited_for_it(scans, monkeypatch):
    """Two callers wait for the same scan; the caller that runs it is interrupted."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    found = []

    def call():
        try:
            found.append(scans.shared.get())
        except KeyboardInterrupt:
            scans.error = None
            found.append("interrupted")

    scans.error = KeyboardInterrupt()
    with scans.shared._lock:
        threads = [in_thread(call) for _ in range(2)]
        while not all(is_waiting(thread) for thread in threads):
            os.sched_yield()
    for thread in threads:
        thread.join(LONG_S)

    assert ["interrupted", 2] == found


def test_a_child_forked_during_a_scan_scans_for_itself(scans):
    """The scanning thread does not exist in the child, so its lock is never released there."""
    with scans.shared._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if scans.shared.get() == 1 else 1)

    assert (child, 0) == os.waitpid(child, 0)


def test_a_change_of_the_clock_makes_no_old_result_new(monkeypatch):
    """A monotonic clock that was ahead for a while, as a test sets it, has no effect."""
    results = iter(range(3))
    shared = SharedScan(lambda: next(results))
    real = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: real() + 3600)
        assert 0 == shared.get()

    assert [1, 2] == [shared.get(), shared.get()]
