"""What is in the way of a file or a directory is set aside, and what is removed stays removed."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator_core.exceptions import StorageError
from orchestrator_core.resources import EnvFile, TempDirectory
from orchestrator_core.system import obstacles
from orchestrator_core.system.tree import remove_tree

KINDS = {
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "symlink": lambda path: path.symlink_to("elsewhere"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_place_of_a_file_gets_another_name_in_the_same_directory(kind, tmp_path):
    path = tmp_path / "log"
    KINDS[kind](path)
    before = path.lstat()

    aside = obstacles.clear_file(path)

    assert os.path.samestat(before, os.lstat(aside))
    assert [aside] == [str(each) for each in tmp_path.iterdir()]
    assert obstacles.clear_file(path) is None


def test_a_regular_file_or_nothing_is_no_obstacle(tmp_path):
    (tmp_path / "log").touch()
    for name in ("log", "missing", "log/below"):
        assert obstacles.clear_file(tmp_path / name) is None
    assert obstacles.clear_directory(tmp_path / "missing") is None
    assert ["log"] == [path.name for path in tmp_path.iterdir()]


def test_a_directory_is_no_obstacle_and_its_owner_can_use_it_afterwards(tmp_path):
    (tmp_path / "archive").mkdir(mode=0)
    assert obstacles.clear_directory(tmp_path / "archive") is None
    assert 0o700 == stat.S_IMODE((tmp_path / "archive").stat().st_mode)


def test_a_symlink_in_the_place_of_a_directory_changes_nothing_where_it_leads(tmp_path):
    target = tmp_path / "target"
    target.mkdir(mode=0o500)
    (tmp_path / "archive").symlink_to(target)
    aside = obstacles.clear_directory(tmp_path / "archive")
    assert Path(aside).readlink() == target
    assert 0o500 == stat.S_IMODE(target.stat().st_mode)


def test_an_obstacle_in_a_directory_that_is_a_symlink_is_not_touched(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "log").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(StorageError):
        obstacles.clear_file(tmp_path / "link" / "log")
    assert (tmp_path / "real" / "log").is_dir()


def test_a_tree_behind_a_symlink_is_not_removed_and_a_symlink_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "tree").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="irectory"):
        remove_tree(tmp_path / "link" / "tree")
    remove_tree(tmp_path / "link")
    assert [tmp_path / "real"] == [*tmp_path.iterdir()]
    assert (tmp_path / "real" / "tree").is_dir()


def test_every_removal_of_an_end_is_durable_before_the_journal_is_closed(fake_scene, monkeypatch):
    """A power failure after the end brings nothing back: no secret, no run directory."""
    orch = fake_scene.orchestrator()
    steps = [TempDirectory(), EnvFile({"KEY": "secret"})]
    agent = orch.deploy(orch.create_task("tried").id, fake_scene.spec(), extra_steps=steps)
    dirty, closed = {}, []

    def directory_of(path, dir_fd=None):
        above = Path(f"/proc/self/fd/{dir_fd}").readlink() if dir_fd else Path()
        return above / Path(path).parent

    def watched(name, call):
        def removed(path, *, dir_fd=None):
            call(path, dir_fd=dir_fd)
            dirty.setdefault(directory_of(path, dir_fd), []).append(f"{name} {path}")

        return removed

    def synced(fd, call=os.fsync):
        call(fd)
        dirty.pop(Path(f"/proc/self/fd/{fd}").readlink(), None)

    def renamed(source, target, call=os.rename, **how):
        if "/closed/" in os.fspath(target):
            closed.append({name for name in dirty if name.is_relative_to(orch.root)})
        call(source, target, **how)

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)

    assert orch.terminate(agent.id).success

    assert [] == [path for path in closed[0] if path.is_dir()]
