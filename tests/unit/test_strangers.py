"""What other users can put in the way: directories, symlinks and sockets that are not used."""

import os
import socket
import subprocess

import pytest

from orchestrator_core.exceptions import CouldNotAsk, StorageError, TerminalError
from orchestrator_core.model.discovery import DIRECTORY_NAME, find_root
from orchestrator_core.model.layout import open_root
from orchestrator_core.system import paths
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.tmux import TmuxTerminal

STRANGER = 54321  #: A user id that no file of a test has.


@pytest.fixture
def project(tmp_path):
    """A directory with another one below it, and no root above."""
    below = tmp_path / "project" / "src"
    below.mkdir(parents=True)
    return below.parent


def found(project):
    return find_root(env={}, cwd=project / "src")


# --- the search for a root ------------------------------------------------------------------------


def test_a_root_of_this_user_above_is_found(project):
    (project / DIRECTORY_NAME).mkdir()
    assert project / DIRECTORY_NAME == found(project)[0]


def test_a_symlink_of_this_user_is_followed(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (project / DIRECTORY_NAME).symlink_to(tmp_path / "elsewhere")
    assert tmp_path / "elsewhere" == found(project)[0]


@pytest.mark.needs("root")
def test_another_users_directory_above_is_passed_over(project):
    """It would block every directory below."""
    (project / DIRECTORY_NAME).mkdir()
    os.chown(project / DIRECTORY_NAME, STRANGER, STRANGER)
    assert (project / "src" / DIRECTORY_NAME, "the working directory") == found(project)


@pytest.mark.needs("root")
def test_another_users_symlink_to_a_directory_of_this_user_is_not_followed(project, tmp_path):
    (tmp_path / "mine").mkdir()
    (project / DIRECTORY_NAME).symlink_to(tmp_path / "mine")
    os.lchown(project / DIRECTORY_NAME, STRANGER, STRANGER)
    assert project / "src" / DIRECTORY_NAME == found(project)[0]


@pytest.mark.needs("root")
def test_a_root_is_not_made_where_another_users_symlink_leads(project, tmp_path):
    (project / "src" / DIRECTORY_NAME).symlink_to(tmp_path / "chosen")
    os.lchown(project / "src" / DIRECTORY_NAME, STRANGER, STRANGER)
    with pytest.raises(StorageError, match=f"belongs to user {STRANGER}") as refused:
        open_root(env={}, cwd=project / "src")
    assert "--root" in refused.value.hint
    assert not (tmp_path / "chosen").exists()


def test_what_belongs_to_another_user_is_nobodys_root(project, monkeypatch):
    (project / DIRECTORY_NAME).mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert project / "src" / DIRECTORY_NAME == found(project)[0]


# --- directories that others can write to ---------------------------------------------------------


def foreign_group(monkeypatch, *, private):
    monkeypatch.setattr(paths, "_is_private_group", lambda _gid: private)


def test_a_root_that_its_group_can_write_to_is_refused(short_tmp, monkeypatch):
    foreign_group(monkeypatch, private=False)
    (short_tmp / "root").mkdir()
    (short_tmp / "root").chmod(0o770)
    with pytest.raises(StorageError, match="its group can write to it") as refused:
        open_root(short_tmp / "root")
    assert "chmod g-w" in refused.value.hint
    assert [] == list((short_tmp / "root").iterdir())


def test_a_group_of_one_user_is_no_other_user(short_tmp, monkeypatch):
    """Many systems give each user a group, and new directories its write permission."""
    foreign_group(monkeypatch, private=True)
    (short_tmp / "root").mkdir()
    (short_tmp / "root").chmod(0o770)
    assert short_tmp / "root" / "tmux.sock" == open_root(short_tmp / "root").tmux_socket


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_below_a_directory_of_others_the_socket_is_elsewhere(short_tmp, monkeypatch, mode):
    """In such a directory another user can move the whole root away, socket and all."""
    foreign_group(monkeypatch, private=False)
    shared = short_tmp / "shared"
    shared.mkdir()
    shared.chmod(mode)
    opened = open_root(shared / "root")
    assert shared not in opened.tmux_socket.parents
    assert 0o700 == opened.tmux_socket.parent.stat().st_mode & 0o777
    assert "" == paths.why_replaceable(opened.tmux_socket.parent)


def test_a_sticky_directory_protects_what_is_in_it(short_tmp, monkeypatch):
    foreign_group(monkeypatch, private=False)
    (short_tmp / "tmp").mkdir()
    (short_tmp / "tmp").chmod(0o1777)
    assert short_tmp / "tmp/root/tmux.sock" == open_root(short_tmp / "tmp/root").tmux_socket


def test_the_target_of_a_symlink_in_a_path_counts(short_tmp, monkeypatch):
    foreign_group(monkeypatch, private=False)
    (short_tmp / "shared").mkdir()
    (short_tmp / "shared").chmod(0o777)
    (short_tmp / "link").symlink_to("shared")
    assert "shared" in paths.why_replaceable(short_tmp / "link")


# --- a socket that others can replace -------------------------------------------------------------


def every_question(terminal):
    yield terminal.sessions
    yield lambda: terminal.kill("a", owner="me")
    yield lambda: terminal.start("a", owner="me", argv=["sleep", "1"])


def test_no_question_goes_to_a_socket_that_others_can_replace(short_tmp, monkeypatch, private_tmux):
    foreign_group(monkeypatch, private=False)
    private_tmux.begin()
    terminal = TmuxTerminal(private_tmux.socket)
    assert () == terminal.sessions()
    short_tmp.chmod(0o770)
    for ask in every_question(terminal):
        with pytest.raises(TerminalError, match="other users can write to") as refused:
            ask()
        assert isinstance(refused.value, CouldNotAsk)
    assert Presence.UNKNOWN is terminal.inspect("a", owner="me").presence
    short_tmp.chmod(0o700)


@pytest.mark.needs("root")
def test_no_question_goes_to_another_users_socket(short_tmp):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_tmp / "tmux.sock"))
        os.chown(short_tmp / "tmux.sock", STRANGER, STRANGER)
        for ask in every_question(TmuxTerminal(short_tmp / "tmux.sock")):
            with pytest.raises(TerminalError, match="not a socket of this user"):
                ask()


# --- git ------------------------------------------------------------------------------------------


def git(repository, *arguments):
    return subprocess.run(
        ["git", "-C", repository, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_git_neither_stages_nor_removes_a_new_root(project):
    """Stage: git add -A. Remove: git clean -fd, as agents do."""
    git(project, "init", "-q")
    opened = open_root(project / DIRECTORY_NAME)
    git(project, "add", "-A")
    git(project, "clean", "-ffd")
    assert "" == git(project, "ls-files")
    assert "" == git(project, "status", "--porcelain")
    assert opened.layout.root_file.exists()


def test_a_gitignore_of_the_user_stays(short_tmp):
    (short_tmp / "root").mkdir(mode=0o700)
    (short_tmp / "root" / ".gitignore").write_text("!*\n")
    open_root(short_tmp / "root")
    assert "!*\n" == (short_tmp / "root" / ".gitignore").read_text()


@pytest.mark.parametrize("name", ["new\nline", "bell\a", os.fsdecode(b"caf\xe9")])
def test_a_root_whose_path_documents_cannot_contain_is_refused(short_tmp, name):
    with pytest.raises(StorageError, match="path") as refused:
        open_root(short_tmp / name)
    assert "UTF-8 text without control characters" in refused.value.hint
    str(refused.value).encode()
    assert [] == list(short_tmp.iterdir())
