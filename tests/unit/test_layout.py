"""Roots: how one is found and opened, and what its first use fixes for ever."""

import json
import os
import shutil
import socket
import stat
import threading

import pytest

from orchestrator_core.exceptions import (
    InvalidId,
    RegistryDamaged,
    RegistryTooNew,
    StorageError,
)
from orchestrator_core.model import socket_path
from orchestrator_core.model.layout import Layout, find_root, open_root
from orchestrator_core.system import locks
from orchestrator_core.system.paths import SOCKET_PATH_MAX


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def root(short_tmp):
    return short_tmp / "root"


# --- which root ---------------------------------------------------------------------------


def test_a_root_is_the_argument_or_from_the_environment_or_the_nearest_above_or_here(tmp_path):
    project = tmp_path / "project"
    below = project / "src" / "deep"
    below.mkdir(parents=True)
    variable, old = "ORCHESTRATOR_ROOT", "CLAUDE_ORCHESTRATOR_WORKSPACE"

    def found(argument=None, **env):
        return find_root(argument, env=env, cwd=below)

    assert (below / ".agent-workspace", "the working directory") == found()
    (project / ".agent-workspace").mkdir()
    assert (project / ".agent-workspace", f"the nearest above {below}") == found()
    assert (tmp_path / "old", old) == found(**{old: str(tmp_path / "old")})
    both = {old: str(tmp_path / "old"), variable: str(tmp_path / "ours")}
    assert (tmp_path / "ours", variable) == found(**both)
    assert (tmp_path / "given", "the argument") == found(tmp_path / "given", **both)
    assert (below / "near", "the argument") == found("near")


def test_an_empty_variable_names_no_root(tmp_path):
    env = {"ORCHESTRATOR_ROOT": "", "CLAUDE_ORCHESTRATOR_WORKSPACE": ""}
    assert tmp_path / ".agent-workspace" == find_root(env=env, cwd=tmp_path)[0]


def test_a_search_for_the_root_touches_nothing(tmp_path):
    find_root(tmp_path / "root")
    assert [] == list(tmp_path.iterdir())


def test_a_symlink_to_a_root_is_resolved(short_tmp, root):
    root.mkdir()
    (short_tmp / "link").symlink_to("root")
    assert root == open_root(short_tmp / "link").layout.root


# --- opening ---------------------------------------------------------------------------------


def test_a_new_root_is_private_and_complete(root):
    opened = open_root(root)
    assert {".gitignore", "registry", "sagas", "root.json", "root.json.lock"} == {
        entry.name for entry in root.iterdir()
    }
    assert (root / "sagas" / "closed").is_dir()
    assert [0o700] * 3 == [mode(path) for path in (root, root / "registry", root / "sagas")]
    assert 0o600 == mode(root / "root.json")
    root_document = json.loads((root / "root.json").read_text())
    assert (1, opened.root_id, str(opened.tmux_socket)) == (
        root_document["schema_version"],
        root_document["root_id"],
        root_document["tmux_socket"],
    )
    assert 8 == len(opened.root_id)


def test_a_second_opening_finds_what_the_first_use_fixed_whatever_the_environment(
    root, monkeypatch
):
    first = open_root(root)
    for name in ("HOME", "XDG_RUNTIME_DIR", "TMUX_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "/nowhere")
    assert first == open_root(root)


def test_first_openers_at_the_same_time_agree(root):
    gate, found = threading.Barrier(8), []

    def race():
        gate.wait()
        found.append(open_root(root))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 == len(found)
    assert 1 == len({(opened.root_id, opened.tmux_socket) for opened in found})


def test_a_later_opening_takes_no_lock(root):
    open_root(root)
    fd = os.open(root / "root.json.lock", os.O_RDWR)
    assert locks.try_lock(fd)
    open_root(root)
    os.close(fd)


def test_the_old_systems_workspace_is_a_root(root):
    """The workspace's files and their modes stay as they are."""
    (root / "registry").mkdir(parents=True)
    (root / "registry" / "GLOBAL_REGISTRY.json").write_text("{}")
    root.chmod(0o755)
    assert "{}" == open_root(root).layout.global_registry.read_text()
    assert 0o755 == mode(root)


def refused(root, words):
    with pytest.raises(StorageError, match=words) as refusal:
        open_root(root)
    assert str(root) in str(refusal.value)
    assert "from the argument" in str(refusal.value)
    assert refusal.value.hint


def test_a_root_that_is_a_file_is_refused(root):
    root.write_text("mine")
    refused(root, "not a directory")
    assert "mine" == root.read_text()


def test_a_root_that_every_user_can_write_to_is_refused(root):
    root.mkdir()
    root.chmod(0o777)
    refused(root, "every user")
    assert [] == list(root.iterdir())


def test_a_root_of_another_user_is_refused(root, monkeypatch):
    root.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refused(root, "belongs to user")
    assert [] == list(root.iterdir())


def test_a_root_that_this_user_cannot_write_to_is_refused(root, monkeypatch):
    root.mkdir()
    monkeypatch.setattr(
        os, "access", lambda *_: False
    )  # the user root, which runs tests in CI, may write anywhere
    refused(root, "cannot write")


def test_a_root_in_a_loop_of_symlinks_is_refused(root):
    root.symlink_to(root.name)
    for place in (root, root / "below"):
        with pytest.raises(StorageError, match="leads nowhere"):
            open_root(place)


@pytest.mark.parametrize("name", ["registry", "sagas"])
def test_a_symlink_inside_a_root_is_not_followed(short_tmp, root, name):
    elsewhere = short_tmp / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    (root / name).symlink_to(elsewhere)
    refused(root, "symlink")
    assert [] == list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"schema_version": 1, "root_id": "a"}'),
        '{"schema_version": 1, "root_id": "../x", "tmux_socket": "/s"}',
        '{"schema_version": 1, "root_id": "a", "tmux_socket": "s"}',
        '{"schema_version": "x", "root_id": "a", "tmux_socket": "/s"}',
    ],
)
def test_a_damaged_root_file_is_an_error_with_a_remedy(root, content):
    """With another id, this root would not recognize its own agents."""
    open_root(root)
    (root / "root.json").write_text(content)
    with pytest.raises(RegistryDamaged, match=r"root\.json") as damage:
        open_root(root)
    assert "root_id" in damage.value.hint
    assert content == (root / "root.json").read_text()


def test_a_root_of_a_newer_release_is_left_alone(root):
    open_root(root)
    document = json.loads((root / "root.json").read_text()) | {"schema_version": 99}
    (root / "root.json").write_text(json.dumps(document))
    with pytest.raises(RegistryTooNew):
        open_root(root)


# --- the socket --------------------------------------------------------------------------------


def test_the_socket_is_in_the_root_if_its_address_fits(root):
    assert root / "tmux.sock" == open_root(root).tmux_socket
    assert not (root / "tmux.sock").exists()


@pytest.fixture
def long_root(short_tmp):
    """A root one byte too deep for a socket in it."""
    room = SOCKET_PATH_MAX - len(os.fsencode(short_tmp)) - len("//tmux.sock")
    return short_tmp / ("x" * (room + 1))


def test_a_socket_that_just_fits_is_one_that_works(short_tmp, long_root):
    opened = open_root(short_tmp / long_root.name[:-1])
    assert opened.layout.root / "tmux.sock" == opened.tmux_socket
    assert SOCKET_PATH_MAX == len(os.fsencode(opened.tmux_socket))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(opened.tmux_socket))
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(OSError, match="too long"):
        server.bind(f"{opened.tmux_socket}x")


@pytest.fixture
def _private_addresses(short_tmp, monkeypatch):
    """Private directories outside the root, but below the test's own."""
    monkeypatch.setattr(
        socket_path,
        "_candidates",
        lambda root, root_id: iter(
            [root / "tmux.sock", short_tmp / "p1" / f"{root_id}.s", short_tmp / "p2" / "sock"]
        ),
    )


@pytest.mark.usefixtures("_private_addresses")
def test_a_socket_that_does_not_fit_is_in_a_private_directory(short_tmp, long_root):
    opened = open_root(long_root)
    assert short_tmp / "p1" / f"{opened.root_id}.s" == opened.tmux_socket
    assert 0o700 == mode(short_tmp / "p1")


@pytest.mark.usefixtures("_private_addresses")
def test_a_private_directory_that_is_open_to_others_is_not_used(short_tmp, long_root):
    (short_tmp / "p1").mkdir()
    (short_tmp / "p1").chmod(0o755)
    assert short_tmp / "p2" / "sock" == open_root(long_root).tmux_socket


@pytest.mark.usefixtures("_private_addresses")
def test_a_private_directory_that_is_a_symlink_is_not_used(short_tmp, long_root):
    (short_tmp / "elsewhere").mkdir(mode=0o700)
    (short_tmp / "p1").symlink_to("elsewhere")
    assert short_tmp / "p2" / "sock" == open_root(long_root).tmux_socket


@pytest.mark.usefixtures("_private_addresses")
def test_an_error_names_every_socket_address_that_was_tried(short_tmp, long_root):
    for name in ("p1", "p2"):
        (short_tmp / name).touch()
    with pytest.raises(StorageError, match=r"p1.*p2"):
        open_root(long_root)


@pytest.mark.usefixtures("_private_addresses")
def test_a_private_directory_that_a_reboot_removed_is_created_again(short_tmp, long_root):
    opened = open_root(long_root)
    (short_tmp / "p1").rmdir()
    assert opened == open_root(long_root)
    assert 0o700 == mode(short_tmp / "p1")


# --- the layout ----------------------------------------------------------------------------------


def test_the_layout_has_the_old_systems_names(tmp_path):
    layout = Layout(tmp_path)
    agent = ("TASK-1", "a-1")
    assert {
        "registry/GLOBAL_REGISTRY.json": layout.global_registry,
        "sagas/a-1.jsonl": layout.journal("a-1"),
        "TASK-1/AGENT_REGISTRY.json": layout.task_registry("TASK-1"),
        "TASK-1/agent_prompt_a-1.txt": layout.prompt(*agent),
        "TASK-1/logs/a-1_stream.jsonl": layout.log(*agent),
        "TASK-1/logs/deploy_a-1.json": layout.deploy_log(*agent),
        "TASK-1/progress/a-1_progress.jsonl": layout.progress(*agent),
        "TASK-1/findings/a-1_findings.jsonl": layout.findings(*agent),
        "TASK-1/archive": layout.archive("TASK-1"),
        "TASK-1/output": layout.output("TASK-1"),
        "TASK-1/run/a-1": layout.run_dir(*agent),
    } == {
        str(path.relative_to(tmp_path)): path
        for path in (
            *(layout.global_registry, layout.journal("a-1"), layout.task_registry("TASK-1")),
            *(layout.prompt(*agent), layout.log(*agent), layout.deploy_log(*agent)),
            *(layout.progress(*agent), layout.findings(*agent), layout.archive("TASK-1")),
            *(layout.output("TASK-1"), layout.run_dir(*agent)),
        )
    }


@pytest.mark.parametrize("bad", ["..", "a/b", "", "a\0b"])
def test_no_hostile_id_becomes_a_path(tmp_path, bad):
    layout = Layout(tmp_path)
    for make in (
        lambda: layout.task(bad),
        lambda: layout.journal(bad),
        lambda: layout.prompt("TASK-1", bad),
        lambda: layout.run_dir("TASK-1", bad),
    ):
        with pytest.raises(InvalidId):
            make()


def test_a_directory_is_a_task_if_it_has_a_registry_damaged_or_not(tmp_path):
    layout = Layout(tmp_path)
    for name in ("TASK-2", "TASK-1", "TASK-3", "TASK-4", "other"):
        (tmp_path / name).mkdir()
    for name in ("TASK-2", "TASK-1", "other"):
        (tmp_path / name / "AGENT_REGISTRY.json").touch()
    (tmp_path / "TASK-3" / "AGENT_REGISTRY.json.damaged-2026").touch()
    (tmp_path / "TASK-5").touch()
    assert ["TASK-1", "TASK-2", "TASK-3"] == layout.task_ids()


# --- copies ---------------------------------------------------------------------------------------


def test_a_copy_is_refused_until_its_root_file_is_removed(tmp_path):
    """A copy has the original's id and server. An end of its agents would end the original's."""
    first = open_root(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "copy", copy_function=shutil.copy2)
    with pytest.raises(StorageError, match="it is a copy of") as caught:
        open_root(tmp_path / "copy")
    assert f"rm {tmp_path}/copy/root.json" in caught.value.hint

    (tmp_path / "copy" / "root.json").unlink()

    assert first.root_id != open_root(tmp_path / "copy").root_id
    assert first.root_id == open_root(tmp_path / "first").root_id


def test_a_moved_root_keeps_its_id(tmp_path):
    first = open_root(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    assert first.root_id == open_root(tmp_path / "moved").root_id


# --- from nowhere ---------------------------------------------------------------------------------


def test_a_missing_working_directory_matters_only_for_a_relative_path(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert (tmp_path / "ws", "the argument") == find_root(tmp_path / "ws", env={})
    assert tmp_path / "ws" == find_root(env={"ORCHESTRATOR_ROOT": str(tmp_path / "ws")})[0]
    for root in (None, "relative"):
        with pytest.raises(StorageError, match="working directory is gone"):
            find_root(root, env={})
