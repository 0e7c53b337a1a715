"""Threads that update one registry at the same time: each update is made as if it were alone."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_core.exceptions import InvalidInput, LimitReached, LockTimeout, StorageError
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.system import locks

TIMEOUT_S = 20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "AGENT_REGISTRY.json"
    registry(path).create({"agents": []})
    return path


def registry(path, **how):
    """Return a new registry object for each thread, as each orchestrator has."""
    return Registry(path, schema=TASK, **how)


def add(number):
    def change(document):
        document["agents"].append({"id": f"a{number}", "status": "running"})
        return number

    return change


def raising(error):
    def change(document):
        document["agents"].append({"id": "aborted"})
        raise error

    return change


def all_at_once(path, *changes, **how):
    """Make each change in a thread, all after a common start; return each result or error."""
    start = threading.Barrier(len(changes))

    def made(change):
        start.wait(TIMEOUT_S)
        try:
            with registry(path, **how).transaction() as document:
                return change(document)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(made, changes, timeout=TIMEOUT_S))


def ids(path):
    return sorted(agent["id"] for agent in registry(path).read()["agents"])


def test_no_update_of_many_threads_is_lost(path):
    results = all_at_once(path, *map(add, range(24)))

    assert list(range(24)) == results
    assert sorted(f"a{n}" for n in range(24)) == ids(path)
    assert 24 == registry(path).read()["active_count"]


def test_a_change_that_raises_spoils_no_other(path):
    refused, too_many = ValueError("not this one"), LimitReached("no more")

    results = all_at_once(path, add(1), raising(refused), add(2), raising(too_many))

    assert [1, refused, 2, too_many] == results
    assert ["a1", "a2"] == ids(path)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda document: document["agents"].append({"what": object()}), InvalidInput),
        (lambda document: document.update(agents="none"), TypeError),
    ],
)
def test_a_change_that_cannot_be_written_fails_only_its_thread(path, spoil, error):
    first, second, third = all_at_once(path, add(1), spoil, add(2))

    assert (1, 2) == (first, third)
    assert isinstance(second, error)
    assert ["a1", "a2"] == ids(path)


def test_a_full_disk_refuses_every_thread_and_the_old_document_stands(path, monkeypatch):
    def rename(_source, _target):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(os, "rename", rename)
        results = all_at_once(path, *map(add, range(12)))

    assert {StorageError} == set(map(type, results))
    assert [] == ids(path)


def test_a_held_lock_times_out_every_waiting_thread_with_a_separate_error(path):
    holder = locks.LockFile(path, what="it")
    holder.acquire(0)
    begun = time.monotonic()

    results = all_at_once(path, *map(add, range(6)), lock_timeout_s=1.0)

    assert {LockTimeout} == set(map(type, results))
    assert 6 == len(set(map(id, results)))
    assert time.monotonic() - begun < 2
    holder.release()
    holder.close()
