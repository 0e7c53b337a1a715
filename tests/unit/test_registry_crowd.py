"""
Updates of a crowd: each is made as if its thread had been alone, and few are made one by one.
"""

import contextlib
import errno
import os
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.effects import editions_from_now

from orchestrator_core.exceptions import InvalidInput, LimitReached, LockTimeout, StorageError
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.registry import batcher as crowd
from orchestrator_core.registry.batcher import Crowd
from orchestrator_core.system import locks

LONG_S = 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "AGENT_REGISTRY.json"
    registry(path).create({"agents": []})
    return path


@pytest.fixture
def editions(path, monkeypatch):  # noqa: ARG001 - what has made it is not counted
    """The files in which a new edition of a registry was written."""
    return editions_from_now(monkeypatch)


@pytest.fixture
def patient(monkeypatch):
    """Who waits for the others does so for as long as it takes."""
    monkeypatch.setattr(crowd, "_MOMENT_S", LONG_S)


def registry(path, **how):
    """Return a registry of its own for whoever asks, as orchestrators do."""
    return Registry(path, schema=TASK, **how)


def add(number):
    def change(document):
        document["agents"].append({"id": f"a{number}", "status": "running"})
        return number

    return change


def raising(error):
    def change(document):
        document["agents"].append({"id": "nobody"})
        raise error

    return change


def all_at(path, *changes, **how):
    """Let a crowd make *changes*, each in a thread, all at once; return what came of each."""
    those, are_there = Crowd(len(changes)), threading.Barrier(len(changes))

    def made(change):
        with those.joined():
            are_there.wait(LONG_S)
            try:
                return registry(path, **how).update(change)
            except BaseException as error:  # noqa: BLE001 - it is what came of it
                return error

    with ThreadPoolExecutor(len(changes)) as pool:
        told = list(pool.map(made, changes, timeout=LONG_S))
    assert (len(changes), 0) == (those._free, those._called), "somebody counts twice, or not"
    return told


def entered(path):
    return sorted(agent["id"] for agent in registry(path).read()["agents"])


@pytest.mark.usefixtures("patient")
def test_what_a_crowd_changes_goes_into_a_registry_together(path, editions):
    told = all_at(path, *map(add, range(24)))

    assert list(range(24)) == told
    assert sorted(f"a{n}" for n in range(24)) == entered(path)
    assert 24 == registry(path).read()["active_count"]
    assert 1 == len(editions)


@pytest.mark.usefixtures("patient")
def test_each_registry_has_an_update_of_its_own_and_all_go_on_in_step(path, tmp_path, editions):
    """A few at a time, and each several times: nobody's next change goes without the others'."""
    other = tmp_path / "other" / "AGENT_REGISTRY.json"
    registry(other).create({"agents": []})
    editions.clear()
    those, all_have_come = Crowd(2), threading.Event()

    def made(number):
        with those.joined():
            while len(those._queue) < 10 and not all_have_come.is_set():
                os.sched_yield()
            all_have_come.set()
            for again in range(0, 60, 12):
                registry((path, other)[number % 2]).update(add(again + number))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(made, range(12), timeout=LONG_S))

    assert sorted(f"a{n}" for n in range(0, 60, 2)) == entered(path)
    assert sorted(f"a{n}" for n in range(1, 60, 2)) == entered(other)
    assert 5 * 2 == len(editions)


def test_one_whose_change_raises_spoils_no_others(path):
    refused, too_many = ValueError("not this one"), LimitReached("no more")

    told = all_at(path, add(1), raising(refused), add(2), raising(too_many))

    assert [1, refused, 2, too_many] == told
    assert ["a1", "a2"] == entered(path)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda document: document["agents"].append({"what": object()}), InvalidInput),
        (lambda document: document.update(agents="none"), TypeError),
    ],
)
def test_what_cannot_be_written_is_the_error_of_who_wants_it(path, spoil, error):
    first, second, third = all_at(path, add(1), spoil, add(2))

    assert (1, 2) == (first, third)
    assert isinstance(second, error)
    assert ["a1", "a2"] == entered(path)


def test_what_the_disk_refuses_it_refuses_all_of_them_at_once(path, monkeypatch):
    tries = []

    def rename(_source, target):
        tries.append(target)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(os, "rename", rename)
        told = all_at(path, *map(add, range(12)))

    assert {StorageError} == set(map(type, told))
    assert 1 == len(tries)
    assert [] == entered(path)


def test_a_lock_that_somebody_holds_is_waited_for_once_by_all_of_them(path):
    holder = locks.LockFile(path, what="it")
    holder.acquire(locks.nonblocking)
    begun = time.monotonic()

    told = all_at(path, *map(add, range(6)), lock_timeout_s=1.0)

    assert {LockTimeout} == set(map(type, told))
    assert 6 == len(set(map(id, told))), "each has an error of its own"
    assert time.monotonic() - begun < 2
    holder.release()
    holder.close()


def test_who_comes_alone_is_asked_once_for_his_change(path):
    asked = []

    def change(document):
        asked.append(document)
        raise LimitReached("no more")

    [told] = all_at(path, change)

    assert isinstance(told, LimitReached)
    assert 1 == len(asked)


def test_a_child_that_one_of_a_crowd_forks_is_alone(path):
    """The others, whom it would wait for, are not in it."""
    those = Crowd(1)
    queued = threading.Thread(target=lambda: those.joined().__enter__(), daemon=True)

    def made():
        with those.joined():
            queued.start()
            while not those._queue:
                os.sched_yield()
            child = os.fork()
            if child == 0:
                try:
                    registry(path).update(add(1))
                finally:
                    os._exit(0)
            return child

    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(made).result(LONG_S)
    with contextlib.ExitStack() as stack:
        handle = os.pidfd_open(child)
        stack.callback(os.close, handle)
        stack.callback(os.waitpid, child, 0)
        stack.callback(signal.pidfd_send_signal, handle, signal.SIGKILL)
        assert select.select([handle], [], [], LONG_S)[0]

    assert ["a1"] == entered(path)


def test_who_makes_the_update_for_all_and_dies_strands_no_other(path, monkeypatch):
    class Death(BaseException):
        pass

    deaths = []
    real = os.rename

    def rename(source, target):
        if not deaths:
            deaths.append(target)
            raise Death
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)

    told = all_at(path, *map(add, range(4)))

    assert 1 == sum(isinstance(one, Death) for one in told)
    assert 3 == len(entered(path))


def test_never_more_than_so_many_work_at_a_time_and_who_waits_does_so_while_they_come(
    path, editions, monkeypatch
):
    monkeypatch.setattr(crowd, "_MOMENT_S", 0.25)
    those, at_work, most = Crowd(3), [], []

    def made(number):
        with those.joined():
            at_work.append(number)
            most.append(len(at_work))
            time.sleep(0.1)
            at_work.remove(number)
            registry(path).update(add(number))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(made, range(24), timeout=LONG_S))

    assert 3 == max(most)
    assert 24 == len(entered(path))
    assert len(editions) <= 2, "it took three times as long as one waits for nobody"


def test_who_waits_for_something_else_holds_nobody_up(path):
    """Nor does it keep them from working, once that has been noticed."""
    those, let_go, over = Crowd(1), threading.Event(), threading.Event()

    def waiting():
        with those.joined():
            assert let_go.wait(LONG_S)

    def made(number):
        with those.joined():
            registry(path).update(add(number))
        over.set()

    with ThreadPoolExecutor(3) as pool:
        held_up = pool.submit(waiting)
        while not those.moves:
            os.sched_yield()
        done = [pool.submit(made, number) for number in range(2)]
        assert not over.wait(0.1), "there was room for one alone"
        those.widen(3)
        for each in done:
            each.result(LONG_S)
        let_go.set()
        held_up.result(LONG_S)

    assert ["a0", "a1"] == entered(path)


@pytest.mark.usefixtures("patient")
def test_who_is_in_no_crowd_waits_for_none(path, editions):
    those = Crowd(1)
    with those.joined():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(registry(path).update, add(1)).result(LONG_S)
        registry(path).update(add(2))
    assert crowd.of_this_thread() is None

    assert ["a1", "a2"] == entered(path)
    assert 2 == len(editions)
