"""The file recipe: whole, durable, private, and honest when it fails."""

import errno
import os
import stat
from pathlib import Path

import pytest

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, move


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
    """The names of the system calls made, in order, with what they were made on."""
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


def test_replaced_content_is_on_the_disk_before_it_has_the_name_and_the_name_after(tmp_path, calls):
    """Write, fsync, rename, fsync the directory: in this order, or a power failure tells."""
    durable.replace(tmp_path / "a", b"new")

    assert ["open", "write", "fsync", "rename", "open", "fsync"] == [name for name, _ in calls]
    assert tmp_path == calls[-1][1]


@pytest.mark.usefixtures("_umask")
def test_a_replaced_file_is_private_whatever_the_umask(tmp_path):
    durable.replace(tmp_path / "a", b"x")
    assert {"a": b"x"} == content(tmp_path)
    assert 0o600 == mode(tmp_path / "a")


@pytest.mark.parametrize("kept", [0o600, 0o644, 0o640, 0o400])
def test_replacing_keeps_the_mode_that_the_file_had(tmp_path, kept):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    file.chmod(kept)
    durable.replace(file, b"new")
    assert (b"new", kept) == (file.read_bytes(), mode(file))


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


def test_a_failure_after_the_rename_says_that_the_outcome_is_unknown(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", errno.EIO, after=1)
    with pytest.raises(StorageError, match="was replaced, but") as refusal:
        durable.replace(tmp_path / "a", b"new")
    assert "unknown" in refusal.value.hint


def test_fsync_is_never_tried_again_on_the_same_descriptor(tmp_path, monkeypatch):
    """After a failure the kernel may have dropped the data, and would report success."""
    count = failing(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(StorageError):
        durable.replace(tmp_path / "a", b"new")
    assert 1 == count()


def failing(monkeypatch, name, number, *, after=0):
    """Let every call of ``os.<name>`` fail, but the first *after*; return how many there were."""
    real, calls = getattr(os, name), []

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) <= after:
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)
    return lambda: len(calls)


def test_a_symlink_in_the_place_of_a_file_is_neither_followed_nor_replaced(tmp_path):
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


def test_a_fifo_in_the_place_of_a_file_makes_nobody_wait(tmp_path):
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


def test_leftovers_of_one_file_are_cleared_and_those_of_others_stay(tmp_path):
    for name in (".a.12-0a1b2c3d.tmp", ".ab.12-0a1b2c3d.tmp", ".a.json", "a", "a.tmp"):
        (tmp_path / name).touch()
    durable.remove_stale_temps(tmp_path / "a")
    assert {".ab.12-0a1b2c3d.tmp", ".a.json", "a", "a.tmp"} == set(content(tmp_path))


# --- create, append, remove -------------------------------------------------------------------


@pytest.mark.usefixtures("_umask")
def test_creating_never_overwrites(tmp_path):
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


def test_a_line_after_a_torn_line_starts_on_its_own(tmp_path):
    file = tmp_path / "a"
    durable.append_line(file, b"one")
    with file.open("ab") as torn:
        torn.write(b"tor")
    durable.append_line(file, b"two\n")
    assert b"one\ntor\ntwo\n" == file.read_bytes()
    assert 0o600 == mode(file)


def test_removing_tells_the_size_and_removing_again_is_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert [5, 0] == [durable.remove(tmp_path / "a"), durable.remove(tmp_path / "a")]


def test_removing_a_symlink_leaves_its_target(tmp_path):
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "a").symlink_to("target")
    durable.remove(tmp_path / "a")
    assert {"target": b"x"} == content(tmp_path)


def test_removing_a_directory_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError):
        durable.remove(tmp_path / "a")


# --- moving -----------------------------------------------------------------------------------


def test_moving_never_overwrites_and_numbers_before_the_suffix(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    places = []
    for text in (b"1", b"2", b"3"):
        (tmp_path / "a_stream.jsonl").write_bytes(text)
        place = move.move_no_clobber(tmp_path / "a_stream.jsonl", archive / "a_stream.jsonl")
        places.append(Path(place))
    assert ["a_stream.jsonl", "a_stream.1.jsonl", "a_stream.2.jsonl"] == [p.name for p in places]
    assert [b"1", b"2", b"3"] == [place.read_bytes() for place in places]
    assert {"archive"} == {entry.name for entry in tmp_path.iterdir()}


def test_a_move_killed_half_way_is_finished_under_the_same_name(tmp_path):
    """Both names, one file: moving again keeps the new one."""
    (tmp_path / "a").write_bytes(b"x")
    os.link(tmp_path / "a", tmp_path / "b")
    assert str(tmp_path / "b") == move.move_no_clobber(tmp_path / "a", tmp_path / "b")
    assert {"b": b"x"} == content(tmp_path)


def test_the_new_names_are_durable_before_the_old_ones_go(tmp_path, monkeypatch):
    archive = tmp_path / "archive"
    archive.mkdir()
    done = []
    for name in ("link", "unlink", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _n=name, _r=real, **k: (done.append(_n), _r(*a, **k))[1]
        )
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    move.move_all_no_clobber([(tmp_path / n, archive / n) for n in "ab"])
    assert ["link", "link", "fsync", "unlink", "unlink", "fsync"] == done


def test_moving_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        move.move_no_clobber(tmp_path / "a", tmp_path / "b")


# --- directories --------------------------------------------------------------------------------


def test_a_directory_and_its_parents_are_private_and_each_parent_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "fsync_directory", lambda path: synced.append(Path(path)))
    assert durable.make_directory(tmp_path / "a" / "b" / "c")
    assert not durable.make_directory(tmp_path / "a" / "b" / "c")
    assert [tmp_path, tmp_path / "a", tmp_path / "a" / "b"] == synced
    assert [0o700] * 3 == [mode(tmp_path / p) for p in ("a", "a/b", "a/b/c")]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/"), os.mkfifo])
def test_what_is_no_directory_is_not_used_as_one(tmp_path, make):
    make(tmp_path / "a")
    with pytest.raises(StorageError, match=str(tmp_path / "a")):
        durable.make_directory(tmp_path / "a")


def test_a_slash_at_its_end_changes_nothing_of_a_directory(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "fsync_directory", synced.append)
    assert durable.make_directory(f"{tmp_path}/a/b/")
    assert [str(tmp_path), f"{tmp_path}/a"] == synced


@pytest.mark.parametrize("name", ["", "nowhere/a"])
def test_where_no_directory_can_be_made_it_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("nowhere").symlink_to("gone")
    with pytest.raises(StorageError, match="cannot make directory"):
        durable.make_directory(name)


def test_what_cannot_be_looked_for_is_neither_there_nor_gone(tmp_path):
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
