"""Threads that wait for others: who has done its work stays for a moment, for the next."""

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator_core.system import threads

LONG_S = 20


@pytest.fixture(autouse=True)
def _nobody_idle():
    until(lambda: [] == threads._idle)


def done():
    """Let a thread do something; return which one has done it, when it waits for more."""
    who = []
    threads.run_in_thread(lambda: who.append(threading.get_ident()))
    until(lambda: who and threads._idle)
    return who[0]


def until(holds):
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_one_after_another_is_done_by_one_thread():
    assert 1 == len({done() for _ in range(5)})


def test_who_is_at_work_is_not_given_more():
    at_work, let_go, others = threading.Event(), threading.Event(), []

    def work():
        at_work.set()
        let_go.wait(LONG_S)
        others.append(threading.get_ident())

    threads.run_in_thread(work)
    assert at_work.wait(LONG_S)

    mine = done()
    let_go.set()
    until(lambda: others)

    assert [mine] != others


def test_nobody_stays_for_long(monkeypatch):
    monkeypatch.setattr(threads, "_IDLE_TTL_S", 0.01)
    before, over = thread_count(), threading.Event()

    threads.run_in_thread(over.set)

    assert over.wait(LONG_S)
    until(lambda: [] == threads._idle and thread_count() <= before)


def test_who_is_called_as_it_is_about_to_leave_stays(monkeypatch):
    """It has waited for long enough; but somebody has just taken it from among the idle."""
    monkeypatch.setattr(threads, "_IDLE_TTL_S", 0.01)
    leaving, called, first, who = threading.Event(), threading.Event(), [], []
    real = threads._Worker._retire

    def leaves(self):
        leaving.set()
        assert called.wait(LONG_S)
        return real(self)

    monkeypatch.setattr(threads._Worker, "_retire", leaves)
    threads.run_in_thread(lambda: first.append(threading.get_ident()))
    assert leaving.wait(LONG_S)
    monkeypatch.setattr(threads, "_IDLE_TTL_S", 1.0)

    threads.run_in_thread(lambda: who.append(threading.get_ident()))
    called.set()

    until(lambda: who and threads._idle)
    assert first * 2 == [*who, done()]


def test_a_forked_child_has_threads_of_its_own():
    """That of its parent is not in it, and would never come to its work."""
    done()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            threads.run_in_thread(lambda: os.write(writer, b"done"))
            signal.pause()
        finally:
            os._exit(0)
    os.close(writer)
    came = select.select([reader], [], [], LONG_S)[0] and os.read(reader, 4)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reader)

    assert b"done" == came


def thread_count():
    return len(list(Path("/proc/self/task").iterdir()))
