"""Locks: one owner at a time, with a deadline, and released when the owner dies."""

import contextlib
import fcntl
import os
import re
import signal
import stat
import threading
import time
import warnings
from pathlib import Path

import portalocker  # noqa: F401 - so that no wait here begins with importing it
import psutil
import pytest

from orchestrator_core.exceptions import LockTimeout
from orchestrator_core.system import locks


@pytest.fixture
def document(tmp_path):
    return tmp_path / "DOCUMENT.json"


def locked(path, timeout_s=10.0):
    return locks.locked(path, timeout_s=timeout_s, what="the document")


@contextlib.contextmanager
def child(work):
    """Fork a process that enters *work* and then waits to be killed; yield its pid."""
    ready, signalled = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about a fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            with work():
                os.write(signalled, b"!")
                signal.pause()
        finally:
            os._exit(1)
    os.close(signalled)
    assert b"!" == os.read(ready, 1)
    os.close(ready)
    try:
        yield pid
    finally:
        kill(pid)


def kill(pid):
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def lock_of(document):
    return document.with_name(f"{document.name}.lock")


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# --- on a descriptor ------------------------------------------------------------------------


@pytest.fixture
def fds(tmp_path):
    """The descriptors of two open files of one journal."""
    opened = [os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2)]
    yield opened
    for fd in opened:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_one_open_file_excludes_another_from_the_lock(fds):
    one, other = fds
    assert locks.try_lock(one)
    assert not locks.try_lock(other)
    locks.unlock(one)
    assert locks.try_lock(other)


def test_a_wait_ends_when_the_lock_is_released(fds):
    one, other = fds
    locks.try_lock(one)
    threading.Timer(0.05, locks.unlock, [one]).start()
    assert locks.lock_within(other, 10)
    assert not locks.try_lock(one)


def test_a_wait_ends_after_its_timeout(fds):
    one, other = fds
    locks.try_lock(one)
    begun = time.monotonic()
    assert not locks.lock_within(other, 0.05)
    assert 0.05 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_a_timeout_of_zero_or_less_does_not_wait(fds, timeout_s):
    one, other = fds
    locks.try_lock(one)
    assert not locks.lock_within(other, timeout_s)


def test_a_lock_granted_after_the_timeout_is_released(tmp_path, fds):
    """A caller that timed out never holds the lock later, even with its file still open."""
    one, other = fds
    locks.try_lock(one)
    assert not locks.lock_within(other, 0.02)
    locks.unlock(one)
    for _ in range(50):  # the old wait's lock is granted between two of these
        third = os.open(tmp_path / "journal", os.O_RDWR)
        assert locks.lock_within(third, 5)
        os.close(third)


def test_the_lock_of_a_killed_process_is_free_at_once(fds, tmp_path):
    @contextlib.contextmanager
    def hold():
        fd = os.open(tmp_path / "journal", os.O_RDWR)
        assert locks.try_lock(fd)
        yield

    with child(hold) as pid:
        assert not locks.try_lock(fds[0])
        kill(pid)
        assert locks.try_lock(fds[0])


def test_a_reused_descriptor_number_is_not_locked_by_an_old_wait(tmp_path, fds):
    """The caller closes its descriptor after a timeout, and its number names another file."""
    one, other = fds
    locks.try_lock(one)
    assert not locks.lock_within(other, 0.02)
    os.close(other)
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT, 0o600)
    assert other == stranger
    locks.unlock(one)
    assert locks.lock_within(one, 10)
    again = os.open(tmp_path / "stranger", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


# --- on a sibling -------------------------------------------------------------------------------


def test_eight_threads_lose_no_increment(document):
    """Each thread reads, increments and writes a counter in a file."""
    document.write_text("0")

    def count():
        for _ in range(25):
            with locked(document):
                document.write_text(str(int(document.read_text()) + 1))

    threads = [in_thread(count) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert "200" == document.read_text()


def test_a_timeout_names_the_lock_its_owner_and_the_wait(document):
    with child(lambda: locked(document)) as pid, pytest.raises(LockTimeout) as timeout:
        locked(document, timeout_s=0.05).__enter__()
    assert re.search(
        rf"the document: \S+DOCUMENT.json.lock is held by pid {pid} \(\S+\), since 2\S+; "
        r"waited 0\.\d s",
        str(timeout.value),
    )
    assert "its lock ends with it" in timeout.value.hint


def test_a_timeout_names_an_owner_that_only_the_kernel_knows(document):
    """A short holder does not sign its lock file; on a slow disk it may hold the lock for long."""

    @contextlib.contextmanager
    def hold():
        with contextlib.closing(locks.LockFile(document, what="it")) as lock:
            lock.acquire(0, sign=False)
            yield

    with child(hold) as pid, pytest.raises(LockTimeout) as timeout:
        locked(document, timeout_s=0.05).__enter__()
    assert re.search(rf"is held by pid {pid} \(\S+\); waited 0\.\d s", str(timeout.value))


def test_a_timeout_names_the_living_owner_and_not_a_dead_one(document):
    """A short holder does not overwrite the signature of a dead owner."""
    with child(lambda: locked(document)) as pid:
        kill(pid)
    with contextlib.closing(locks.LockFile(document, what="it")) as lock:
        lock.acquire(0, sign=False)
        with pytest.raises(LockTimeout, match=f"held by pid {os.getpid()} "):
            locked(document, timeout_s=0.02).__enter__()


def test_a_timeout_names_the_owner_of_the_wait_target(document):
    """The owner of the queue waits, too; the wait target's owner causes the delay."""

    with child(lambda: locked(document)) as pid, contextlib.ExitStack() as closed:
        one, other = (
            locks.LockFile(document, what="it", name="queue", wait_target="lock") for _ in range(2)
        )
        closed.callback(one.close)
        closed.callback(other.close)
        one.acquire(0)
        with pytest.raises(LockTimeout, match=f"DOCUMENT.json.lock is held by pid {pid} "):
            other.acquire(0.05)


def test_the_error_of_a_timeout_names_the_dead_process_that_forked_the_owner(document, monkeypatch):
    """A process forked by the owner keeps the lock; the file names the owner's pid."""
    monkeypatch.setattr(locks, "kernel_owner_pid", lambda _: None)
    with child(lambda: locked(document)) as pid:
        kill(pid)
    fd = os.open(lock_of(document), os.O_RDWR)
    assert locks.try_lock(fd)
    with pytest.raises(LockTimeout, match=f"forked by pid {pid}, which is gone"):
        locked(document, timeout_s=0.02).__enter__()
    os.close(fd)


def test_the_next_owner_learns_that_the_previous_one_died(document):
    def interrupted():
        with locked(document) as previous_owner_died:
            return previous_owner_died

    interrupted()
    assert not interrupted()
    with child(lambda: locked(document)) as pid:
        kill(pid)
    assert interrupted()
    assert not interrupted()
    with contextlib.suppress(ZeroDivisionError), locked(document):
        raise ZeroDivisionError
    assert interrupted()


def test_the_lock_file_is_private_and_stays(document):
    with locked(document):
        pass
    status = os.lstat(lock_of(document))
    assert 0o600 == stat.S_IMODE(status.st_mode)
    with locked(document):
        assert status.st_ino == os.lstat(lock_of(document)).st_ino


def test_a_waiter_locks_the_new_file_after_the_old_one_was_removed(document, monkeypatch):
    """A lock on a removed lock file would guard nothing."""
    opened, got = threading.Event(), threading.Event()
    real = locks.lock_within

    def wait():
        with locked(document):
            got.set()

    with locked(document):
        monkeypatch.setattr(
            locks, "lock_within", lambda *args, **how: opened.set() or real(*args, **how)
        )
        waiting = in_thread(wait)
        opened.wait()
        lock_of(document).unlink()
        new = os.open(lock_of(document), os.O_RDWR | os.O_CREAT, 0o600)
        assert locks.try_lock(new)
    assert not got.wait(0.05)
    os.close(new)
    waiting.join()
    assert got.is_set()


OBSTACLES = {
    "symlink": lambda path: path.symlink_to("target"),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_has_the_locks_name_and_is_no_file_is_set_aside(kind, document, tmp_path):
    """It is not followed, nor removed, and no work waits for a person."""
    (tmp_path / "target").write_text("precious")
    OBSTACLES[kind](lock_of(document))
    with locked(document):
        assert lock_of(document).is_file()
        assert not lock_of(document).is_symlink()
    assert "precious" == (tmp_path / "target").read_text()
    [aside] = tmp_path.glob("*.set-aside-*")
    assert not aside.is_file() or aside.is_symlink()


def test_a_thread_cannot_lock_two_documents(document, tmp_path):
    """Sibling locks are leaves: a second one inside the first could deadlock."""
    with locked(document), pytest.raises(AssertionError, match="holds"):
        locked(tmp_path / "OTHER.json").__enter__()
    with locked(tmp_path / "OTHER.json"):
        pass


def test_two_threads_lock_two_documents(document, tmp_path):
    done = threading.Event()

    def hold_other():
        with locked(tmp_path / "OTHER.json"):
            done.set()

    with locked(document):
        in_thread(hold_other).join()
    assert done.is_set()


def test_a_forked_child_does_not_release_the_lock_of_its_parent(document):
    """A bare fork leaves the same ``with`` block, too."""
    held = locked(document)
    held.__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        held.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(pid, 0)
    other = os.open(lock_of(document), os.O_RDWR)
    assert not locks.try_lock(other)
    held.__exit__(None, None, None)
    assert locks.try_lock(other)
    os.close(other)


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / "a"):
        pass


def test_no_descriptor_is_left_open(document):
    before = psutil.Process().num_fds()
    for _ in range(5):
        with locked(document):
            pass
    assert before == psutil.Process().num_fds()
