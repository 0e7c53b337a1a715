"""The removal of whole directories, whatever an agent has made in them."""

import os
import resource
from pathlib import Path

import pytest

from orchestrator_core import AgentSpec
from orchestrator_core.resources import TempDirectory
from orchestrator_core.saga import State
from orchestrator_core.system.tree import remove_tree, walk

DEEP = 1500  #: Deeper than Python's recursion, and than the longest path.


def make_deep(top):
    """Make a directory of many levels below *top*, with a file at its end."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("dd", dir_fd=fd)
        below = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)


@pytest.fixture
def top(tmp_path):
    path = tmp_path / "top"
    path.mkdir()
    yield path
    if path.exists():  # A failed test leaves what pytest cannot remove.
        remove_tree(path)


def test_a_directory_of_any_depth_is_removed_with_a_few_descriptors(top):
    make_deep(top)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len([*Path("/dev/fd").iterdir()])
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    try:
        assert 0 == remove_tree(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not top.exists()


def test_the_size_of_all_files_is_returned_and_no_link_is_followed(top, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (top / "a/b").mkdir(parents=True)
    (top / "a/one").write_bytes(b"1")
    (top / "a/b/two").write_bytes(b"22")
    (top / "file").symlink_to(tmp_path / "precious")
    (top / "directory").symlink_to(tmp_path)
    links = sum((top / name).lstat().st_size for name in ("file", "directory"))
    assert 3 + links == remove_tree(top)
    assert "precious" == (tmp_path / "precious").read_text()


def test_directories_that_their_owner_closed_are_removed(top):
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/c/file").touch()
    for name in ("a/b/c", "a/b", "a"):
        (top / name).chmod(0)
    top.chmod(0o500)
    remove_tree(top)
    assert not top.exists()


def test_a_walk_has_no_limit_of_depth(top):
    (top / "x").mkdir()
    os.mkfifo(top / "pipe")
    depth, errors = 0, []
    make_deep(top / "x")
    for _, directories, _ in walk(str(top), onerror=errors.append):
        depth += bool(directories)
    assert depth > 1200
    assert ["File name too long"] == [os.strerror(error.errno) for error in errors]


def test_an_agent_that_leaves_a_deep_directory_ends_as_any_other(orchestrator):
    """Its saga was STUCK for ever."""
    task = orchestrator.create_task("a task")
    spec = AgentSpec(type="a", prompt="do it", command=["sleep", "100"])
    agent = orchestrator.deploy(task.id, spec, extra_steps=[TempDirectory()])
    make_deep(orchestrator.root / "held" / agent.id / "tmp")

    end = orchestrator.terminate(agent.id)

    assert () == end.errors
    assert State.CLOSED is orchestrator.history(agent.id).state
    assert not (orchestrator.root / "held" / agent.id).exists()
