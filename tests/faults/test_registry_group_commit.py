"""
The proof of group commit: a shared flush is as durable as a flush by each writer.

The test holds the flush lock, so every update takes the long way: its version is written
first, and flushed later, by any writer.
"""

import contextlib
import errno
import functools
import os
import threading
from pathlib import Path

import pytest
from child_crashes import each_crash, in_child
from portalocker.portalocker import FlockLocker
from registry_kit import (
    COMPLETE,
    OK,
    REFUSED,
    UNKNOWN,
    add,
    exit_after_refusal,
    litter,
    names,
    registry_in,
)

from orchestrator_core.exceptions import LockTimeout, StorageError
from orchestrator_core.registry import TASK, Registry, staging
from orchestrator_core.registry.group_commit import PendingVersion, Transaction
from orchestrator_core.system import durable, locks


def slots_of(registry):
    return [staging.slot_path(registry.path, number) for number in range(2)]


def transaction(registry):
    return contextlib.closing(Transaction(registry.path, what="it", timeout_s=10))


@pytest.fixture
def registry(tmp_path):
    made = registry_in(tmp_path)
    made.create({"agents": []})
    return made


@pytest.fixture
def no_direct_flush(monkeypatch):
    """No writer flushes directly, although the flush lock is free."""
    monkeypatch.setattr(Transaction, "_can_flush_directly", lambda _: False)


class FlushLock:
    """The flush lock, held by the test."""

    name = "settle.lock"

    def __init__(self, registry):
        self._file = locks.LockFile(registry.path, what="it", name=self.name)

    def __enter__(self):
        self._file.acquire(0)

    def __exit__(self, *_):
        self._file.release()
        self._file.close()


class QueueLock(FlushLock):
    """The lock of the next writer to flush, held by the test."""

    name = "queue.lock"


def start(*works):
    """Start a thread for each function; return the threads, and a list for their errors."""
    errors = []

    def run(work):
        try:
            work()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    return threads, errors


def wait_for_written(registry, number):
    """Wait until that many versions are written, by the counters in the lock file."""
    lock = registry.path.with_name(f"{registry.path.name}.lock")
    done = threading.Event()
    for _ in range(2000):
        if int(lock.read_bytes()[64:84].rstrip(b"\0") or b"0") >= number:
            return
        done.wait(0.005)
    raise AssertionError("they were not written")


def wait_for_waiting(registry, name, number):
    """Wait until so many threads wait for a lock beside the registry, by the kernel's list."""
    lock = registry.path.with_name(f"{registry.path.name}.{name}")
    done = threading.Event()
    for _ in range(2000):
        waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
        inode = f":{lock.stat().st_ino} " if lock.exists() else "?"
        if number == sum(inode in line for line in waiting):
            return
        done.wait(0.005)
    raise AssertionError("they do not wait")


def test_five_waiting_writers_share_one_fsync_of_the_document_and_one_of_its_directory(
    registry, monkeypatch
):
    fsyncs = []
    real = os.fsync
    with FlushLock(registry):
        threads, errors = start(*(functools.partial(add, registry, f"a{n}") for n in range(5)))
        wait_for_written(registry, 5)
        assert [] == names(registry), "no reader sees a pending version"
        monkeypatch.setattr(os, "fsync", lambda fd: fsyncs.append(fd) or real(fd))
    for thread in threads:
        thread.join()

    assert [] == errors
    assert {"a0", "a1", "a2", "a3", "a4"} == set(names(registry))
    assert 2 == len(fsyncs)
    assert set() == litter(registry.path.parent)


@pytest.mark.usefixtures("no_direct_flush")
def test_a_later_writer_does_not_overtake_the_next_to_flush(registry):
    """The flush lock may be free while the next thread to flush is still waking up."""
    with QueueLock(registry):
        threads, errors = start(functools.partial(add, registry, "later"))
        wait_for_written(registry, 1)
        threads[0].join(0.2)
        assert [] == names(registry)
    threads[0].join()

    assert ([], ["later"]) == (errors, names(registry))


@pytest.mark.usefixtures("no_direct_flush")
def test_a_repair_waits_for_no_writer_that_waits_for_it(registry):
    """A repair has the flush lock; the next writer to flush has the queue's, and waits for it."""
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=1.0)

    with QueueLock(registry):
        hasty.repair(lambda document: {**document, "note": "mended"})

    assert "mended" == registry.read()["note"]


def test_writers_whose_version_another_has_flushed_read_the_counters_at_the_same_time(
    registry, monkeypatch
):
    """One after the other, many writers would spend their time on reading the counters."""
    both, looks = threading.Barrier(2), []
    real = Transaction._is_flushed

    def is_flushed(self, version):
        looks.append(real(self, version))
        if looks[-1]:
            both.wait(20)
        return looks[-1]

    monkeypatch.setattr(Transaction, "_is_flushed", is_flushed)
    with FlushLock(registry):
        next_to_flush, errors = start(functools.partial(add, registry, "a0"))
        wait_for_waiting(registry, "settle.lock", 1)
        threads, more = start(*(functools.partial(add, registry, f"a{n}") for n in (1, 2)))
        wait_for_waiting(registry, "queue.lock", 2)
    for thread in (*next_to_flush, *threads):
        thread.join()

    assert [] == errors + more
    assert [False, True, True] == looks


def test_a_failed_flush_is_an_error_for_every_waiting_writer_and_the_old_document_stands(
    registry, monkeypatch
):
    add(registry, "before")

    def refused(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with FlushLock(registry):
        threads, errors = start(*(functools.partial(add, registry, f"a{n}") for n in range(3)))
        wait_for_written(registry, 3)
        monkeypatch.setattr(os, "fsync", refused)
    for thread in threads:
        thread.join()

    assert 3 == len(errors)
    assert all(isinstance(error, StorageError) for error in errors)
    assert ["before"] == names(registry)
    assert set() == litter(registry.path.parent)
    monkeypatch.undo()
    add(registry, "after")
    assert ["before", "after"] == names(registry)


@pytest.mark.usefixtures("no_direct_flush")
def test_an_update_killed_at_any_call_has_happened_or_not_or_happens_with_the_next(registry):
    happened = set()
    for crash, before in each_crash(lambda _: add(registry, "killed"), lambda: names(registry)):
        found = names(registry)
        assert found in (before, [*before, "killed"]), crash
        add(registry, "next")
        after = names(registry)
        assert after in ([*found, "next"], [*before, "killed", "next"]), crash
        happened.add(len(after) - len(before))
        assert set() == litter(registry.path.parent), crash
    assert {1, 2} == happened


@pytest.mark.usefixtures("no_direct_flush")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_update_refused_at_any_call_raises_a_storage_error_or_succeeds(registry, number):
    refused = 0
    for call in range(1000):
        before = names(registry)
        code = in_child(lambda n=call: exit_after_refusal(registry, n, number))
        assert code in {OK, REFUSED, UNKNOWN, COMPLETE}, f"call {call}: {code}"
        if code == COMPLETE:
            break
        if code != UNKNOWN:
            assert names(registry) == before + ["added"] * (code == OK), f"call {call}"
        refused += code == REFUSED
        add(registry, "next")
        assert "next" == names(registry)[-1]
        assert set() == litter(registry.path.parent), f"call {call}"
    assert refused > 5


@pytest.fixture
def unflushed(registry):
    """A version that was written on top of another, and not flushed."""
    add(registry, "before")
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=0.05)
    with FlushLock(registry), pytest.raises(LockTimeout, match="it was written"):
        add(hasty, "unflushed")
    assert ["before"] == names(registry)
    slots = [slot for slot in map(Path, slots_of(registry)) if slot.exists()]
    return slots[0]


@pytest.mark.usefixtures("unflushed")
def test_a_pending_version_of_another_boot_is_dropped(registry, monkeypatch):
    """The version's writer never returned, and later flushes may have been lost."""
    monkeypatch.setattr(staging, "boot_id", lambda: "another")

    add(registry, "after")

    assert ["before", "after"] == names(registry)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"\0" * 4096,
        lambda whole: whole[:-20],
        lambda whole: whole.replace(b"unflushed", b"unflushex"),
        lambda whole: b"2" + whole[1:],
    ],
)
def test_an_incomplete_pending_version_is_dropped(registry, unflushed, spoil):
    unflushed.write_bytes(spoil(unflushed.read_bytes()))

    add(registry, "after")

    assert ["before", "after"] == names(registry)
    assert set() == litter(registry.path.parent)


@pytest.mark.usefixtures("unflushed")
def test_a_torn_counter_reads_as_zero(registry):
    """Otherwise, an unflushed version could count as flushed, and be lost."""
    lock = registry.path.with_name(f"{registry.path.name}.lock")
    torn = bytearray(lock.read_bytes().ljust(64 + 84, b"\0"))
    torn[64 + 42 : 64 + 84] = b"%020d %020d\n" % (99, 9)
    lock.write_bytes(torn)

    add(registry, "after")

    assert ["before", "unflushed", "after"] == names(registry)


def open_files():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_a_writer_whose_pending_version_is_removed_gets_an_error(registry):
    """Another program has removed the staging slots."""
    with FlushLock(registry):
        threads, errors = start(lambda: add(registry, "lost"))
        wait_for_written(registry, 1)
        for slot in map(Path, slots_of(registry)):
            slot.unlink(missing_ok=True)
    threads[0].join()

    assert ["unknown" in error.hint for error in errors] == [True]
    assert [] == names(registry)
    add(registry, "next")
    assert ["next"] == names(registry)


def test_a_version_published_by_a_killed_writer_is_not_reported_as_aborted(registry, monkeypatch):
    with FlushLock(registry):
        threads, errors = start(lambda: add(registry, "there"))
        wait_for_written(registry, 1)
        [slot] = [each for each in map(Path, slots_of(registry)) if each.exists()]
        registry.path.write_bytes(slot.read_bytes().partition(b"\n")[2])

        def refused(*_, **__):
            raise StorageError("no space")

        monkeypatch.setattr(durable, "replace_unsynced", refused)
    threads[0].join()

    assert ([], ["there"]) == (errors, names(registry))


def test_a_writer_without_a_thread_to_wait_in_leaves_no_file_open(registry, monkeypatch):
    def no_more(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    before = open_files()
    with FlushLock(registry), pytest.raises(RuntimeError):
        add(registry, "late")

    assert before == open_files()


def test_a_timeout_of_a_flush_reports_that_the_version_is_written(registry):
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=0.05)
    with FlushLock(registry), pytest.raises(LockTimeout, match="it was written") as timeout:
        add(hasty, "late")
    assert "unknown" in timeout.value.hint
    add(registry, "next")
    assert ["late", "next"] == names(registry)


def test_an_update_without_a_change_waits_until_the_pending_version_is_flushed(registry):
    """The state that the update returns for is durable, whichever writer has flushed it."""

    def ensure():
        with registry.transaction() as document:
            if not any(agent["id"] == "a" for agent in document["agents"]):
                document["agents"].append({"id": "a"})

    with FlushLock(registry):
        threads, errors = start(ensure)
        wait_for_written(registry, 1)
        more, more_errors = start(ensure)
        more[0].join(0.05)
        assert more[0].is_alive()
    for thread in (*threads, *more):
        thread.join()
    assert [] == errors + more_errors
    assert ["a"] == names(registry)


def test_an_update_without_a_change_waits_until_the_replaced_registry_is_durable(
    registry, monkeypatch
):
    """Readers see it already, but a power failure could still undo it."""
    replaced, waiting, go_on = (threading.Event() for _ in range(3))
    events = []
    sync_name, lock = durable.sync_name, FlockLocker.lock

    def slow(path):
        replaced.set()
        go_on.wait(30)
        sync_name(path)
        events.append("it is on the disk")

    def unchanged():
        with registry.transaction():
            pass
        events.append("no change")

    def seen(*how):
        waiting.set()
        lock(*how)

    monkeypatch.setattr(durable, "sync_name", slow)
    monkeypatch.setattr(FlockLocker, "lock", seen)
    threads, errors = start(lambda: add(registry, "a1"))
    assert replaced.wait(30)
    more, _ = start(unchanged)
    assert waiting.wait(30)
    assert [] == events
    go_on.set()
    for thread in (*threads, *more):
        thread.join()

    assert ([], "no change") == (errors, events[-1])
    assert ["it is on the disk"] * 2 == events[:-1]


def test_a_writer_learns_whether_its_version_was_flushed_before_an_abort(registry):
    """However late it reads the counters, and whatever was flushed since."""
    with FlushLock(registry):
        threads, errors = start(lambda: add(registry, "first"))
        wait_for_written(registry, 1)
    threads[0].join()
    with transaction(registry) as update:
        update.lock()
        early, late = update.pending() or PendingVersion(1, 0), PendingVersion(2, 0)
        update._abort_pending()
    add(registry, "after")

    with transaction(registry) as update:
        update.flush(early)
    with transaction(registry) as update, pytest.raises(StorageError) as dropped:
        update.flush(late)
    assert "" == dropped.value.hint
    with transaction(registry) as update:
        update.lock()
        update._abort_pending()
    with transaction(registry) as update, pytest.raises(StorageError) as forgotten:
        update.flush(late)
    assert "unknown" in forgotten.value.hint
    assert [] == errors
