"""
Updates that settle for each other: as durable as if each had settled for itself.

Here the settle lock is somebody else's, as it is in a crowd, so that every update
goes the long way: written, then settled by whoever comes first.
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


def transaction(registry):
    return contextlib.closing(Transaction(registry.path, what="it", timeout_s=10))


@pytest.fixture
def registry(tmp_path):
    made = registry_in(tmp_path)
    made.create({"agents": []})
    return made


@pytest.fixture
def nobody_alone(monkeypatch):
    """No update finds the settle lock free at its first look, though it is at its second."""
    monkeypatch.setattr(Transaction, "_can_flush_directly", lambda _: False)


class SettleLock:
    """The settle lock, in our hands."""

    name = "settle.lock"

    def __init__(self, registry):
        self._file = locks.LockFile(registry.path, what="it", name=self.name)

    def __enter__(self):
        self._file.acquire(0)

    def __exit__(self, *_):
        self._file.release()
        self._file.close()


class QueueLock(SettleLock):
    """The lock of who is the next to settle, in our hands."""

    name = "queue.lock"


def start(*works):
    """Start a thread for each; return them, and the list that their errors come to."""
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
    """Wait until that many editions are written: the lock file of the document tells."""
    lock = registry.path.with_name(f"{registry.path.name}.lock")
    done = threading.Event()
    for _ in range(2000):
        if int(lock.read_bytes()[64:84].rstrip(b"\0") or b"0") >= number:
            return
        done.wait(0.005)
    raise AssertionError("they were not written")


def wait_for_waiting(registry, name, number):
    """Wait until so many wait for a lock beside the registry: the kernel lists them."""
    lock = registry.path.with_name(f"{registry.path.name}.{name}")
    done = threading.Event()
    for _ in range(2000):
        waiting = [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
        inode = f":{lock.stat().st_ino} " if lock.exists() else "?"
        if number == sum(inode in line for line in waiting):
            return
        done.wait(0.005)
    raise AssertionError("they do not wait")


def test_five_that_wait_are_settled_by_one_fsync_of_a_document_and_one_of_its_directory(
    registry, monkeypatch
):
    fsyncs = []
    real = os.fsync
    with SettleLock(registry):
        threads, errors = start(*(functools.partial(add, registry, f"a{n}") for n in range(5)))
        wait_for_written(registry, 5)
        assert [] == names(registry), "nobody sees what is not on the disk"
        monkeypatch.setattr(os, "fsync", lambda fd: fsyncs.append(fd) or real(fd))
    for thread in threads:
        thread.join()

    assert [] == errors
    assert {"a0", "a1", "a2", "a3", "a4"} == set(names(registry))
    assert 2 == len(fsyncs)
    assert set() == litter(registry.path.parent)


@pytest.mark.usefixtures("nobody_alone")
def test_who_comes_later_does_not_go_before_the_next_to_settle(registry):
    """However free the settle lock is: who waits for it may still be waking up."""
    with QueueLock(registry):
        threads, errors = start(functools.partial(add, registry, "later"))
        wait_for_written(registry, 1)
        threads[0].join(0.2)
        assert [] == names(registry)
    threads[0].join()

    assert ([], ["later"]) == (errors, names(registry))


@pytest.mark.usefixtures("nobody_alone")
def test_who_mends_waits_for_nobody_that_waits_for_it(registry):
    """It has the settle lock from the start; the next to settle has the queue's, and wants it."""
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=1.0)

    with QueueLock(registry):
        hasty.repair(lambda document: {**document, "note": "mended"})

    assert "mended" == registry.read()["note"]


def test_those_that_another_settles_for_look_at_the_same_time(registry, monkeypatch):
    """Were one to wait until the other has looked, a crowd would spend its time on being told."""
    both, looks = threading.Barrier(2), []
    real = Transaction._is_flushed

    def is_settled(self, edition):
        looks.append(real(self, edition))
        if looks[-1]:
            both.wait(20)
        return looks[-1]

    monkeypatch.setattr(Transaction, "_is_flushed", is_settled)
    with SettleLock(registry):
        next_to_settle, errors = start(functools.partial(add, registry, "a0"))
        wait_for_waiting(registry, "settle.lock", 1)
        threads, more = start(*(functools.partial(add, registry, f"a{n}") for n in (1, 2)))
        wait_for_waiting(registry, "queue.lock", 2)
    for thread in (*next_to_settle, *threads):
        thread.join()

    assert [] == errors + more
    assert [False, True, True] == looks


def test_when_settling_fails_all_that_waited_are_told_and_the_old_document_stands(
    registry, monkeypatch
):
    add(registry, "before")

    def refused(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with SettleLock(registry):
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


@pytest.mark.usefixtures("nobody_alone")
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


@pytest.mark.usefixtures("nobody_alone")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_update_refused_at_any_call_is_an_error_of_ours_or_no_error(registry, number):
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
def unsettled(registry):
    """An edition that was written on top of another, and nobody has settled."""
    add(registry, "before")
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=0.05)
    with SettleLock(registry), pytest.raises(LockTimeout, match="it was written"):
        add(hasty, "unsettled")
    assert ["before"] == names(registry)
    slots = [slot for slot in map(Path, staging.StagingSlots(registry.path).files) if slot.exists()]
    return slots[0]


@pytest.mark.usefixtures("unsettled")
def test_what_was_not_settled_in_another_boot_is_nobodys_and_is_dropped(registry, monkeypatch):
    """It was never acknowledged, and what has been settled since may have been lost."""
    monkeypatch.setattr(staging, "boot_id", lambda: "another")

    add(registry, "after")

    assert ["before", "after"] == names(registry)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"\0" * 4096,
        lambda whole: whole[:-20],
        lambda whole: whole.replace(b"unsettled", b"unsettlex"),
        lambda whole: b"2" + whole[1:],
    ],
)
def test_an_edition_that_is_not_whole_is_nobodys_and_is_dropped(registry, unsettled, spoil):
    unsettled.write_bytes(spoil(unsettled.read_bytes()))

    add(registry, "after")

    assert ["before", "after"] == names(registry)
    assert set() == litter(registry.path.parent)


@pytest.mark.usefixtures("unsettled")
def test_a_number_that_is_read_while_it_is_written_is_seen_to_be_so(registry):
    """Were it believed, an edition that is not settled could pass for settled, and be lost."""
    lock = registry.path.with_name(f"{registry.path.name}.lock")
    torn = bytearray(lock.read_bytes().ljust(64 + 84, b"\0"))
    torn[64 + 42 : 64 + 84] = b"%020d %020d\n" % (99, 9)
    lock.write_bytes(torn)

    add(registry, "after")

    assert ["before", "unsettled", "after"] == names(registry)


def open_files():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_who_finds_what_it_wrote_gone_is_not_told_that_it_holds(registry):
    """Somebody has removed what is written beside the registry."""
    with SettleLock(registry):
        threads, errors = start(lambda: add(registry, "lost"))
        wait_for_written(registry, 1)
        for slot in map(Path, staging.StagingSlots(registry.path).files):
            slot.unlink(missing_ok=True)
    threads[0].join()

    assert ["unknown" in error.hint for error in errors] == [True]
    assert [] == names(registry)
    add(registry, "next")
    assert ["next"] == names(registry)


def test_what_was_published_by_one_who_died_before_saying_so_is_not_said_to_be_dropped(
    registry, monkeypatch
):
    with SettleLock(registry):
        threads, errors = start(lambda: add(registry, "there"))
        wait_for_written(registry, 1)
        [slot] = [
            each for each in map(Path, staging.StagingSlots(registry.path).files) if each.exists()
        ]
        registry.path.write_bytes(slot.read_bytes().partition(b"\n")[2])

        def refused(*_, **__):
            raise StorageError("no space")

        monkeypatch.setattr(durable, "replace_unsynced", refused)
    threads[0].join()

    assert ([], ["there"]) == (errors, names(registry))


def test_who_cannot_have_a_thread_to_wait_in_leaves_no_file_open(registry, monkeypatch):
    def no_more(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    before = open_files()
    with SettleLock(registry), pytest.raises(RuntimeError):
        add(registry, "late")

    assert before == open_files()


def test_who_waits_too_long_for_the_disk_is_told_that_it_is_written(registry):
    hasty = Registry(registry.path, schema=TASK, lock_timeout_s=0.05)
    with SettleLock(registry), pytest.raises(LockTimeout, match="it was written") as timeout:
        add(hasty, "late")
    assert "unknown" in timeout.value.hint
    add(registry, "next")
    assert ["late", "next"] == names(registry)


def test_a_change_that_finds_itself_made_by_one_not_settled_waits_for_that(registry):
    """What is said to be so is on the disk, even if another had to bring it there."""

    def ensure():
        with registry.transaction() as document:
            if not any(agent["id"] == "a" for agent in document["agents"]):
                document["agents"].append({"id": "a"})

    with SettleLock(registry):
        threads, errors = start(ensure)
        wait_for_written(registry, 1)
        more, more_errors = start(ensure)
        more[0].join(0.05)
        assert more[0].is_alive()
    for thread in (*threads, *more):
        thread.join()
    assert [] == errors + more_errors
    assert ["a"] == names(registry)


def test_a_change_that_finds_itself_made_by_one_who_is_settling_it_waits_for_that(
    registry, monkeypatch
):
    """All can read it, and a power failure may still take it back: nobody is told that it holds."""
    replaced, waiting, go_on = (threading.Event() for _ in range(3))
    told = []
    settle, lock = durable.sync_name, FlockLocker.lock

    def slow(path):
        replaced.set()
        go_on.wait(30)
        settle(path)
        told.append("it is on the disk")

    def unchanged():
        with registry.transaction():
            pass
        told.append("no change")

    def seen(*how):
        waiting.set()
        lock(*how)

    monkeypatch.setattr(durable, "sync_name", slow)
    monkeypatch.setattr(FlockLocker, "lock", seen)
    threads, errors = start(lambda: add(registry, "a1"))
    assert replaced.wait(30)
    more, _ = start(unchanged)
    assert waiting.wait(30)
    assert [] == told
    go_on.set()
    for thread in (*threads, *more):
        thread.join()

    assert ([], "no change") == (errors, told[-1])
    assert ["it is on the disk"] * 2 == told[:-1]


def test_who_was_settled_before_a_failure_is_not_told_that_it_failed_nor_the_reverse(registry):
    """However long they waited for a look, and whatever was settled since."""
    with SettleLock(registry):
        threads, errors = start(lambda: add(registry, "first"))
        wait_for_written(registry, 1)
    threads[0].join()
    with transaction(registry) as revision:
        revision.lock()
        early, late = revision.pending() or PendingVersion(1, 0), PendingVersion(2, 0)
        revision._abort_pending()
    add(registry, "after")

    with transaction(registry) as revision:
        revision.flush(early)
    with transaction(registry) as revision, pytest.raises(StorageError) as dropped:
        revision.flush(late)
    assert "" == dropped.value.hint
    with transaction(registry) as revision:
        revision.lock()
        revision._abort_pending()
    with transaction(registry) as revision, pytest.raises(StorageError) as forgotten:
        revision.flush(late)
    assert "unknown" in forgotten.value.hint
    assert [] == errors
