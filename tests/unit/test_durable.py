"""Durable files: atomic, durable and private, with a clear error for each failure."""

import errno
import os
import stat
from pathlib import Path

import pytest

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def content(directory):
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


@pytest.fixture(params=[0o022, 0o000, 0o777], ids=oct)
def _umask(request, tmp_path):  # noqa: ARG001 - it has to exist before the mask shuts its user out
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.fixture
def calls(monkeypatch):
    """The system calls of the test in their order: name and path."""
    seen = []

    def record(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            seen.append((name, described(name, args, result)))
            return result

        monkeypatch.setattr(os, name, call)

    def described(name, args, result):
        target = Path(f"/proc/self/fd/{result if name == 'open' else args[0]}")
        return target.readlink() if name in {"open", "write", "fsync"} else args[-1]

    for name in ("open", "write", "fsync", "rename"):
        record(name)
    return seen


# --- replace -------------------------------------------------------------------------------


def test_replace_syncs_the_content_before_the_rename_and_the_directory_after(tmp_path, calls):
    """In another order, a power failure could leave an empty or an old file."""
    durable.replace(tmp_path / "a", b"new")

    assert ["open", "write", "fsync", "rename", "open", "fsync"] == [name for name, _ in calls]
    assert tmp_path == calls[-1][1]


@pytest.mark.usefixtures("_umask")
def test_a_replaced_file_is_private_whatever_the_umask(tmp_path):
    durable.replace(tmp_path / "a", b"x")
    assert {"a": b"x"} == content(tmp_path)
    assert 0o600 == mode(tmp_path / "a")


@pytest.mark.parametrize("old_mode", [0o600, 0o644, 0o640, 0o400])
def test_replace_keeps_the_mode_of_the_old_file(tmp_path, old_mode):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    file.chmod(old_mode)
    durable.replace(file, b"new")
    assert (b"new", old_mode) == (file.read_bytes(), mode(file))


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    durable.replace(tmp_path / "a", b"0123456789" * 10)
    assert b"0123456789" * 10 == (tmp_path / "a").read_bytes()


FAILING = [("open", errno.EMFILE), ("fchmod", errno.EPERM), ("write", errno.ENOSPC)]
FAILING += [("write", errno.EIO), ("fsync", errno.EIO), ("fsync", errno.ENOSPC)]
FAILING += [("rename", errno.EROFS), ("rename", errno.EIO)]


@pytest.mark.parametrize(("name", "number"), FAILING)
def test_a_failed_replace_leaves_the_old_content_and_nothing_else(
    tmp_path, monkeypatch, name, number
):
    (tmp_path / "a").write_bytes(b"old")
    failing(monkeypatch, name, number)
    with pytest.raises(StorageError) as refusal:
        durable.replace(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert {"a": b"old"} == content(tmp_path)
    assert number == refusal.value.__cause__.errno
    assert str(tmp_path) in str(refusal.value)
    assert refusal.value.hint


def test_the_error_of_a_failure_after_the_rename_calls_the_outcome_unknown(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", errno.EIO, after=1)
    with pytest.raises(StorageError, match="was replaced, but") as refusal:
        durable.replace(tmp_path / "a", b"new")
    assert "unknown" in refusal.value.hint


def test_a_failed_fsync_is_not_retried(tmp_path, monkeypatch):
    """After a failure the kernel may have dropped the data, and would report success falsely."""
    count = failing(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(StorageError):
        durable.replace(tmp_path / "a", b"new")
    assert 1 == count()


def failing(monkeypatch, name, number, *, after=0):
    """Make ``os.<name>`` fail after the first *after* calls; return a counter of all its calls."""
    real, calls = getattr(os, name), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) <= after:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)
    return lambda: len(calls)


def test_a_symlink_is_neither_followed_nor_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"precious")
    link = tmp_path / "a"
    link.symlink_to("target")
    for touch in (
        lambda: durable.replace(link, b"x"),
        lambda: durable.read(link),
        lambda: durable.append_line(link, b"x"),
        lambda: durable.open_private(link, os.O_RDWR | os.O_CREAT),
    ):
        with pytest.raises(StorageError, match=r"symlink|symbolic"):
            touch()
    assert b"precious" == (tmp_path / "target").read_bytes()
    assert link.is_symlink()


def test_a_fifo_blocks_no_open(tmp_path):
    os.mkfifo(tmp_path / "a")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
        with pytest.raises(StorageError):
            durable.open_private(tmp_path / "a", flags)


def test_another_users_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for touch in (durable.read, lambda path: durable.replace(path, b"y")):
        with pytest.raises(StorageError, match="belongs to user"):
            touch(tmp_path / "a")
    assert b"x" == (tmp_path / "a").read_bytes()


def test_stale_temps_of_one_file_are_removed_and_other_files_stay(tmp_path):
    for name in (".a.12-0a1b2c3d.tmp", ".ab.12-0a1b2c3d.tmp", ".a.json", "a", "a.tmp"):
        (tmp_path / name).touch()
    durable.remove_stale_temps(tmp_path / "a")
    assert {".ab.12-0a1b2c3d.tmp", ".a.json", "a", "a.tmp"} == set(content(tmp_path))


# --- create, append, remove -------------------------------------------------------------------


@pytest.mark.usefixtures("_umask")
def test_create_never_overwrites(tmp_path):
    durable.create(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        durable.create(tmp_path / "a", b"second")
    assert (b"first", 0o600) == ((tmp_path / "a").read_bytes(), mode(tmp_path / "a"))


@pytest.mark.parametrize(("name", "number"), [("write", errno.ENOSPC), ("fsync", errno.EIO)])
def test_a_failed_create_leaves_no_file(tmp_path, monkeypatch, name, number):
    failing(monkeypatch, name, number)
    with pytest.raises(StorageError):
        durable.create(tmp_path / "a", b"x")
    monkeypatch.undo()
    assert {} == content(tmp_path)


def test_a_line_appended_after_a_torn_line_is_a_separate_line(tmp_path):
    file = tmp_path / "a"
    durable.append_line(file, b"one")
    with file.open("ab") as torn:
        torn.write(b"tor")
    durable.append_line(file, b"two\n")
    assert b"one\ntor\ntwo\n" == file.read_bytes()
    assert 0o600 == mode(file)


def test_remove_returns_the_size_and_a_second_remove_returns_zero(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert [5, 0] == [durable.remove(tmp_path / "a"), durable.remove(tmp_path / "a")]


def test_remove_of_a_symlink_keeps_its_target(tmp_path):
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "a").symlink_to("target")
    durable.remove(tmp_path / "a")
    assert {"target": b"x"} == content(tmp_path)


def test_remove_refuses_a_directory(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError):
        durable.remove(tmp_path / "a")


# --- directories --------------------------------------------------------------------------------


def test_new_directories_are_private_and_each_parent_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "fsync_directory", lambda path: synced.append(Path(path)))
    assert durable.make_directory(tmp_path / "a" / "b" / "c")
    assert not durable.make_directory(tmp_path / "a" / "b" / "c")
    assert [tmp_path, tmp_path / "a", tmp_path / "a" / "b"] == synced
    assert [0o700] * 3 == [mode(tmp_path / p) for p in ("a", "a/b", "a/b/c")]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/"), os.mkfifo])
def test_a_file_of_another_type_is_refused_as_a_directory(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(StorageError, match=str(tmp_path / "a")):
        durable.make_directory(tmp_path / "a")


def test_a_trailing_slash_does_not_change_the_parents(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "fsync_directory", synced.append)
    assert durable.make_directory(f"{tmp_path}/a/b/")
    assert [str(tmp_path), f"{tmp_path}/a"] == synced


@pytest.mark.parametrize("name", ["", "nowhere/a"])
def test_an_impossible_directory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("nowhere").symlink_to("gone")
    with pytest.raises(StorageError, match="cannot make directory"):
        durable.make_directory(name)


def test_an_unknown_existence_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    assert durable.exists(tmp_path / "loop")
    assert not durable.exists(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="symbolic links"):
        durable.exists(tmp_path / "loop" / "below")


def test_a_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match=r"Not a directory"):
        durable.make_directory(tmp_path / "a" / "b")
