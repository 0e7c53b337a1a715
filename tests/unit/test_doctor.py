"""
The doctor: the result and the remedy of each check, in each state of a root and its machine.

Roots are real, with agents of the fake. A fault of the disk or the kernel is injected into one
call. tmux is real, or a faulty script.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import msgspec
import psutil
import pytest

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model import discovery, settings
from orchestrator_core.model.layout import Layout
from orchestrator_core.operations import doctor
from orchestrator_core.operations.doctor import (
    filesystem,
    integrity,
    machine,
    resource_limits,
    root,
    software,
    tmux_check,
)
from orchestrator_core.operations.doctor.check import Check, Environment, Verdict, shorten_list
from orchestrator_core.supervisor import platform as system
from orchestrator_core.system.processes import identity

OK, UNKNOWN, WARNING, FAILED = Verdict
#: Limits that the other processes of this user share: a busy machine may exceed them.
SHARED_LIMITS = {"file events", "processes", "space"}
ON_LINUX = sys.platform == "linux"


def subject(place, *, env=None, timeout_s=1.0):
    return Environment(place, "a test", "", os.environ if env is None else env, timeout_s)


def by_name(checks):
    return {check.name: check for check in checks}


def failures(checks):
    failed = {check.name for check in checks if check.verdict is FAILED}
    return failed - SHARED_LIMITS


@pytest.fixture
def used(fake_scene):
    """A used root with one live and one ended agent."""
    mask = os.umask(0o077)  # The fake's supervisor also writes public files.
    try:
        orch = fake_scene.orchestrator()
        task = orch.create_task("examined").id
        orch.terminate(orch.deploy(task, fake_scene.spec()).id)
        fake_scene.lives = orch.deploy(task, fake_scene.spec()).id
        fake_scene.task = task
    finally:
        os.umask(mask)
    return fake_scene


@pytest.fixture
def environment(used):
    return subject(used.root)


def be_another_user(monkeypatch):
    """Let this process be a user that owns no file."""
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)


def refuse(number):
    def call(*_, **__):
        raise OSError(number, os.strerror(number))

    return call


# --- all of it ------------------------------------------------------------------------------------


def test_a_healthy_root_has_no_failed_check_and_is_not_changed(used):
    before = used.world.snapshot()

    checks = doctor.examine(used.root)

    assert list(doctor.CHECKS) == [check.name for check in checks]
    assert set() == failures(checks)
    assert f"its id is {used.world.root_id}" == by_name(checks)["root.json"].found
    assert before == used.world.snapshot()
    assert [] == used.world.locked()


def test_the_doctor_creates_nothing_in_an_empty_directory(tmp_path):
    doctor.examine(tmp_path / "new" / "root")
    doctor.examine(cwd=tmp_path, env={})

    assert [] == list(tmp_path.iterdir())


def test_a_damaged_root_is_not_changed(used):
    """Truncated registries, a damaged journal, no root.json and a symlink are reported only."""
    (used.root / "root.json").unlink()
    (used.root / "registry" / "GLOBAL_REGISTRY.json").write_text("{")
    (used.root / used.task / "AGENT_REGISTRY.json").unlink()
    journal = next((used.root / "sagas").glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes().replace(b"{", b"x", 1))
    (used.root / "orchestrator.toml").symlink_to("/etc/passwd")
    before = used.world.snapshot()

    checks = doctor.examine(used.root)

    expected = {"permissions", "settings", "root.json", "registries", "journals"}
    assert expected == failures(checks)
    assert before == used.world.snapshot()


@pytest.mark.parametrize(
    "place",
    ["a file", "below a file", "a loop", "nothing there", "x" * 300, "a\0b", "directory"],
)
def test_every_check_has_a_result_for_any_kind_of_root(short_tmp, place):
    """No check raises, and each problem has a remedy."""
    (short_tmp / "a file").touch()
    (short_tmp / "a loop").symlink_to("a loop")
    (short_tmp / "directory" / "root.json").mkdir(parents=True)
    where = short_tmp / place.replace("below a file", "a file/below")

    checks = doctor.examine(where)

    assert list(doctor.CHECKS) == [check.name for check in checks]
    assert [] == [check for check in checks if "the check itself failed" in check.found]
    assert [] == [check for check in checks if check.verdict is not OK and not check.remedy]


def test_the_root_check_reports_a_path_that_cannot_be_a_root(short_tmp):
    (short_tmp / "a file").touch()
    (short_tmp / "a loop").symlink_to("a loop")

    for place, found in [("a file", "no directory"), ("a loop", "leads nowhere")]:
        check = by_name(doctor.examine(short_tmp / place))["root"]
        assert FAILED is check.verdict
        assert found in check.found
        assert "--root DIR" in check.remedy


def test_the_root_check_reports_a_missing_working_directory(monkeypatch):
    monkeypatch.setattr(Path, "cwd", refuse(2))

    checks = by_name(doctor.examine(env={}))

    assert FAILED is checks["root"].verdict
    assert "working directory is gone" in checks["root"].found
    assert "--root DIR" in checks["root"].remedy
    assert OK is checks["python"].verdict


def test_a_check_that_raises_affects_no_other_check(used, monkeypatch):
    def broken(_):
        raise ZeroDivisionError

    def refused(_):
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setitem(doctor.CHECKS, "clock", broken)
    monkeypatch.setitem(doctor.CHECKS, "space", refused)

    checks = by_name(doctor.examine(used.root))

    assert UNKNOWN is checks["clock"].verdict
    assert "report it" in checks["clock"].remedy
    assert FAILED is checks["space"].verdict
    assert "/some/where" in checks["space"].found
    assert OK is checks["journals"].verdict


@pytest.fixture
def hang():
    """A check that does not return before the test ends."""
    over = threading.Event()
    yield lambda *_, **__: over.wait(60)
    over.set()


def test_a_hung_check_is_unknown_and_the_others_return_in_time(used, monkeypatch, hang):
    """The other checks read no disk, so that the load of the machine has no effect."""
    quick = {name: doctor.CHECKS[name] for name in ("python", "root")}
    monkeypatch.setattr(doctor, "CHECKS", {"space": hang, **quick})
    begun = time.monotonic()

    checks = by_name(doctor.examine(used.root, timeout_s=0.5))

    assert time.monotonic() - begun < 5
    assert UNKNOWN is checks["space"].verdict
    assert "no result in time" in checks["space"].found
    assert (OK, OK) == (checks["python"].verdict, checks["root"].verdict)


def test_a_hung_search_for_the_root_ends_in_time(monkeypatch, hang):
    monkeypatch.setattr(doctor, "find_root", hang)
    begun = time.monotonic()

    checks = by_name(doctor.examine("/hung", timeout_s=1.0))

    assert time.monotonic() - begun < 5
    assert FAILED is checks["root"].verdict
    assert "in time" in checks["root"].found


def test_the_checks_run_without_threads_if_none_can_be_started(used, monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)

    checks = by_name(doctor.examine(used.root))

    assert OK is checks["root"].verdict
    assert OK is checks["journals"].verdict


def test_a_timeout_of_a_child_program_is_no_defect(environment, monkeypatch):
    def late(*_, **__):
        raise subprocess.TimeoutExpired("python", 5)

    monkeypatch.setattr(subprocess, "run", late)
    monkeypatch.setattr(doctor, "CHECKS", {"subreaper": doctor.CHECKS["subreaper"]})

    [check] = doctor.examine(environment.root)

    assert (UNKNOWN if ON_LINUX else OK) is check.verdict
    assert "report it" not in check.remedy


def test_a_remedy_of_an_ok_check_is_for_an_optional_thing(used):
    """Only `agents` has one, because presets are optional."""
    expected = {c.name for c in doctor.examine(used.root, env={}) if c.verdict is OK and c.remedy}
    assert {"agents"} >= expected


def test_the_results_are_json_safe(used):
    found = msgspec.json.decode(
        msgspec.json.encode([check.to_dict() for check in doctor.examine(used.root)])
    )
    assert {"name", "verdict", "found", "remedy"} == set(found[0])
    assert {"ok", "unknown", "warning", "failed"} >= {check["verdict"] for check in found}


# --- the software --------------------------------------------------------------------------------


def test_an_old_python_fails(monkeypatch):
    assert OK is software.python(subject(None)).verdict

    monkeypatch.setattr(sys, "version_info", (3, 10, 9))

    answer = software.python(subject(None))
    assert FAILED is answer.verdict
    assert "3.11" in answer.remedy


@pytest.mark.parametrize(
    ("version", "verdict", "expected"),
    [
        (None, FAILED, "there is no"),
        ("0.1", FAILED, "too old"),
        ("99.0", WARNING, "newer than the tested versions"),
    ],
)
def test_a_library_in_a_wrong_version_is_reported_with_its_pip_install(
    monkeypatch, version, verdict, expected
):
    assert OK is software.libraries(subject(None)).verdict
    real = importlib.metadata.version

    def found(name):
        if name != "libtmux":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)

    answer = software.libraries(subject(None))

    assert verdict is answer.verdict
    assert expected in answer.found
    assert "libtmux" in answer.found
    assert 'pip install "libtmux>=' in answer.remedy


def test_the_library_versions_are_those_of_pyproject_toml():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, (first, before) in software.SUPPORTED.items():
        wanted = f'"{name}>={first}' + (f",<{before}" if before else "") + '"'
        assert wanted in text, wanted


def test_a_missing_tmux_library_is_reported_and_is_no_defect(environment, monkeypatch):
    monkeypatch.delitem(sys.modules, "orchestrator_core.system.tmux", raising=False)
    monkeypatch.setitem(sys.modules, "libtmux", None)

    answer = tmux_check.program(environment)

    assert FAILED is answer.verdict
    assert "libtmux" in answer.found


@pytest.mark.parametrize(
    ("env", "found", "remedy"),
    [
        (
            {"ORCHESTRATOR_ROOT": "/a", "CLAUDE_ORCHESTRATOR_WORKSPACE": "/b"},
            "the first one counts",
            "unset CLAUDE_ORCHESTRATOR_WORKSPACE",
        ),
        ({"ORCHESTRATOR_AGENT_ID": "a-1"}, "inside agent a-1", "unset ORCHESTRATOR_AGENT_ID"),
        (
            {"CLAUDE_ORCHESTRATOR_MAX_DEEP": "3"},
            "CLAUDE_ORCHESTRATOR_MAX_DEEP has no meaning",
            "misspelt",
        ),
        ({"ORCHESTRATOR_ROOTS": "/a"}, "ORCHESTRATOR_ROOTS has no meaning", "misspelt"),
    ],
)
def test_a_surprising_variable_is_reported(env, found, remedy):
    answer = software.environment(subject(None, env=env))

    assert WARNING is answer.verdict
    assert found in answer.found
    assert remedy in answer.remedy


def test_an_invalid_limit_is_a_failure():
    """The legacy variables set limits. The check reports the error of an opened root."""
    for value, verdict in (("3", OK), ("", OK), ("many", FAILED)):
        name = "CLAUDE_ORCHESTRATOR_MAX_DEPTH"
        answer = software.environment(subject(None, env={name: value}))
        assert verdict is answer.verdict
        assert (name in answer.found and f"unset {name}" in answer.remedy) is (verdict is FAILED)


def test_all_invalid_limits_are_reported_together():
    names = {"CLAUDE_ORCHESTRATOR_MAX_DEPTH": "x", "CLAUDE_ORCHESTRATOR_MAX_AGENTS": "0"}
    answer = software.environment(subject(None, env=names))
    assert set() == {name for name in names if name not in answer.found}


def test_a_variable_that_the_package_reads_is_no_misspelling():
    code = Path(doctor.__file__).parents[1].rglob("*.py")
    names = {
        n for path in code for n in re.findall(r"\bORCHESTRATOR_[A-Z_]+[A-Z]\b", path.read_text())
    }

    answer = software.environment(
        subject(None, env=dict.fromkeys(names - {"ORCHESTRATOR_AGENT_ID"}, "x"))
    )

    assert "ORCHESTRATOR_ROOT" in names
    assert OK is answer.verdict, answer.found


def test_a_process_inside_tmux_is_no_problem():
    answer = software.environment(subject(None, env={"TMUX": "x"}))
    assert (OK, True) == (answer.verdict, "inside tmux" in answer.found)


# --- tmux -----------------------------------------------------------------------------------------


@pytest.fixture
def a_tmux(short_tmp, monkeypatch):
    """Put a script called tmux on the path instead of the real program."""

    def put(script):
        place = short_tmp / "bin"
        place.mkdir()
        if script is not None:
            (place / "tmux").write_text(f"#!/bin/sh\n{script}\n")
            (place / "tmux").chmod(0o755)
        monkeypatch.setenv("PATH", str(place))
        return place

    return put


@pytest.mark.tmux
def test_the_tmux_program_is_named(environment):
    answer = tmux_check.program(environment)
    assert OK is answer.verdict
    assert shutil.which("tmux") in answer.found


@pytest.mark.parametrize(
    ("script", "found", "remedy"),
    [
        (None, "there is no tmux", "install tmux"),
        ("echo tmux 2.9a", "2.9a", "install tmux 3.2"),
        ("echo hello", "hello", "install tmux 3.2"),
        ("exit 1", "tmux", "install tmux 3.2"),
    ],
    ids=["missing", "too old", "something else", "broken"],
)
def test_an_unusable_tmux_is_reported_with_its_installation(
    environment, a_tmux, script, found, remedy
):
    a_tmux(script)

    answer = tmux_check.program(environment)

    assert FAILED is answer.verdict
    assert found in answer.found
    assert remedy in answer.remedy


def test_a_hung_tmux_fails_in_time(used, a_tmux):
    shell = "exec /bin/cat"
    fifo = used.root.parent / "fifo"
    os.mkfifo(fifo)
    a_tmux(f"{shell} {fifo}")

    begun = time.monotonic()
    answer = tmux_check.program(subject(used.root, timeout_s=0.3))

    assert time.monotonic() - begun < 5
    assert FAILED is answer.verdict
    assert "did not answer within 0.3 s" in answer.found
    assert "pgrep" in answer.remedy


# --- the socket -----------------------------------------------------------------------------------


def serve(path):
    """Listen at a socket, and never answer."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(5)
    path.chmod(0o600)
    return server


def socket_of(used, where=None):
    """Return the path of a root's socket, after an optional change."""
    path = used.root / "root.json"
    document = msgspec.json.decode(path.read_bytes())
    if where is not None:
        document["tmux_socket"] = str(where)
        path.write_bytes(msgspec.json.encode(document))
    return Path(document["tmux_socket"])


def test_an_unused_root_has_no_socket_and_no_server(tmp_path):
    for check in (tmux_check.socket_file, tmux_check.server, tmux_check.descriptors):
        assert OK is check(subject(tmp_path)).verdict


def test_a_root_without_a_started_server_is_ok(environment):
    assert "no server has been started" in tmux_check.socket_file(environment).found
    for check in (tmux_check.socket_file, tmux_check.server, tmux_check.descriptors):
        assert OK is check(environment).verdict


def test_the_socket_is_unknown_without_a_readable_root_json(used):
    (used.root / "root.json").write_text("{}")
    for check in (tmux_check.socket_file, tmux_check.server):
        answer = check(subject(used.root))
        assert (UNKNOWN, True) == (answer.verdict, "root.json" in answer.remedy)


def test_a_path_too_long_for_a_socket_fails(used):
    socket_of(used, used.root / ("x" * 100))
    answer = tmux_check.socket_file(subject(used.root))
    assert FAILED is answer.verdict
    assert "shorter path" in answer.remedy


def test_a_missing_socket_directory_is_a_warning(used, short_tmp):
    socket_of(used, short_tmp / "gone" / "tmux.sock")
    answer = tmux_check.socket_file(subject(used.root))
    assert WARNING is answer.verdict
    assert "orchestrator-core recover" in answer.remedy


def test_a_socket_directory_that_others_can_write_to_fails(used, short_tmp):
    place = short_tmp / "open"
    place.mkdir()
    place.chmod(0o770)
    socket_of(used, place / "tmux.sock")

    answer = tmux_check.socket_file(subject(used.root))

    assert (FAILED, f"chmod 700 {place}") == (answer.verdict, answer.remedy)


def test_a_socket_directory_of_another_user_fails(used, short_tmp, monkeypatch):
    socket_of(used, short_tmp / "tmux.sock")
    looked_at = subject(used.root)
    assert looked_at.socket
    be_another_user(monkeypatch)

    answer = tmux_check.socket_file(looked_at)

    assert FAILED is answer.verdict
    assert "not to this user" in answer.found
    assert f"ls -ld {short_tmp}" in answer.remedy


def test_a_socket_of_another_user_fails(short_tmp, monkeypatch):
    be_another_user(monkeypatch)
    with serve(short_tmp / "tmux.sock"):
        answer = tmux_check._check_socket(short_tmp / "tmux.sock")
    assert FAILED is answer.verdict
    assert f"belongs to user {os.getuid()}" in answer.found
    assert f"ls -la {short_tmp}/tmux.sock" in answer.remedy


def test_a_file_that_is_no_socket_fails(used):
    path = socket_of(used)
    path.touch()
    answer = tmux_check.socket_file(subject(used.root))
    assert (FAILED, True) == (answer.verdict, "is no socket" in answer.found)


def test_a_socket_that_every_user_can_connect_to_fails(used, short_tmp):
    path = socket_of(used, short_tmp / "tmux.sock")
    with serve(path):
        path.chmod(0o666)
        answer = tmux_check.socket_file(subject(used.root))
    assert (FAILED, f"chmod o-rwx {path}") == (answer.verdict, answer.remedy)


def test_a_socket_of_a_dead_server_is_stale(used, short_tmp):
    path = socket_of(used, short_tmp / "tmux.sock")
    serve(path).close()

    answer = tmux_check.socket_file(subject(used.root))

    assert (WARNING, True) == (answer.verdict, "is stale" in answer.found)
    assert "orchestrator-core recover" in answer.remedy
    assert "none runs" == tmux_check.server(subject(used.root)).found


@pytest.mark.tmux
def test_a_listener_that_never_answers_is_named(used, short_tmp):
    """The process may be a hung server or no tmux at all, so its pid is reported."""
    path = socket_of(used, short_tmp / "tmux.sock")
    with serve(path):
        answer = tmux_check.server(subject(used.root, timeout_s=0.3))
        assert OK is tmux_check.socket_file(subject(used.root)).verdict

    assert FAILED is answer.verdict
    assert f"the server is pid {os.getpid()}" in answer.found
    assert f"kill -9 {os.getpid()}" in answer.remedy


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.tmux
def test_a_live_server_is_reported_with_its_sessions_and_files(used, private_tmux):
    socket_of(used, private_tmux.socket)
    private_tmux.begin()
    private_tmux.ask("new-session", "-d", "-s", "somebody's")

    answers = tmux_check.server(subject(used.root))
    files = tmux_check.descriptors(subject(used.root))

    assert OK is answers.verdict
    assert f"pid {private_tmux.pid} answers, and has 1 sessions" == answers.found
    opened = len(list(Path(f"/proc/{private_tmux.pid}/fd").iterdir()))
    limit, _ = resource.prlimit(private_tmux.pid, resource.RLIMIT_NOFILE)
    found = re.fullmatch(r"it may open (\d+) files, and has (\d+) open.*", files.found)
    assert limit == int(found[1])
    assert abs(opened - int(found[2])) <= 5  # The server closes its clients with a delay.


@pytest.mark.parametrize(("user", "nice", "verdict"), [(9, 7, WARNING), (9, 0, OK), (0, 7, OK)])
def test_a_server_of_a_lower_priority_is_reported_to_a_user_who_cannot_raise_it(
    tmp_path, monkeypatch, user, nice, verdict
):
    """Its first deployer was niced, and the kernel raises no priority for an ordinary user."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getpriority", lambda _, pid: nice if pid else 0)

    answer = tmux_check._check_priority(os.getpid(), tmp_path / "socket", "it answers")

    assert verdict is answer.verdict
    assert (verdict is WARNING) is ("nice 7" in answer.found)


@pytest.mark.tmux
def test_a_stopped_server_is_reported_with_the_command_that_continues_it(used, private_tmux):
    socket_of(used, private_tmux.socket)
    private_tmux.begin()
    pid = private_tmux.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = tmux_check.server(subject(used.root, timeout_s=0.3))
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (FAILED, f"kill -CONT {pid}") == (answer.verdict, answer.remedy)
    assert "is stopped" in answer.found


@pytest.mark.tmux
@pytest.mark.parametrize(("files", "verdict"), [(256, WARNING), (40, FAILED)])
def test_a_low_file_limit_of_the_server_is_reported_with_its_remedy(
    used, private_tmux, files, verdict
):
    socket_of(used, private_tmux.socket)
    private_tmux.begin()
    resource.prlimit(private_tmux.pid, resource.RLIMIT_NOFILE, (files, 8192))
    try:
        answer = tmux_check.descriptors(subject(used.root))
    finally:
        resource.prlimit(private_tmux.pid, resource.RLIMIT_NOFILE, (8192, 8192))

    assert verdict is answer.verdict
    assert f"it may open {files} files" in answer.found
    assert f"prlimit --pid {private_tmux.pid} --nofile=4096:4096" in answer.remedy


@pytest.mark.tmux
def test_unreadable_limits_of_the_server_are_unknown(used, private_tmux, monkeypatch):
    socket_of(used, private_tmux.socket)
    private_tmux.begin()
    monkeypatch.setattr(resource, "prlimit", refuse(1))
    assert UNKNOWN is tmux_check.descriptors(subject(used.root)).verdict


# --- the root -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"root": "ws"}, "(from the argument)"),
        ({"env": {"ORCHESTRATOR_ROOT": "ws"}}, "(from ORCHESTRATOR_ROOT)"),
        ({"env": {"CLAUDE_ORCHESTRATOR_WORKSPACE": "ws"}}, "WORKSPACE)"),
        ({}, "(from the working directory)"),
    ],
)
def test_the_source_of_the_root_is_reported(tmp_path, monkeypatch, how, expected):
    # No directory above may have a root.
    monkeypatch.setattr(discovery, "DIRECTORY_NAME", ".no-such-agent-workspace")
    check = by_name(doctor.examine(**{"env": {}, "cwd": tmp_path, **how}))["root"]
    assert WARNING is check.verdict
    assert "is not there yet" in check.found
    assert expected in check.found


def test_a_root_that_cannot_be_created_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    answer = root.root_directory(subject(tmp_path / "a b" / "ws"))
    assert FAILED is answer.verdict
    assert f"chmod u+wx {tmp_path}" in answer.remedy


def test_a_root_that_cannot_be_written_fails(tmp_path, monkeypatch):
    place = tmp_path / "my root"
    place.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    answer = root.root_directory(subject(place))
    assert FAILED is answer.verdict
    assert ["chmod", "u+rwx", str(place)] == shlex.split(answer.remedy.partition(": ")[2])


def test_a_root_below_a_closed_directory_fails_once(tmp_path, monkeypatch):
    """Only the check of the root reports the problem."""
    closed, real, access = tmp_path / "closed", os.stat, os.access
    closed.mkdir()

    def refused(path, *how, **more):
        if isinstance(path, (str, os.PathLike)) and f"{closed}/" in os.fspath(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *how, **more)

    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != closed and access(path, how))

    checks = doctor.examine(closed / "ws")

    assert {"root"} == failures(checks)
    assert f"chmod u+wx {closed}" in by_name(checks)["root"].remedy


# --- permissions ----------------------------------------------------------------------------------


def test_a_private_root_is_ok(environment):
    answer = root.permissions(environment)
    assert OK is answer.verdict
    assert "are owned by this user, and private" in answer.found


def test_a_file_of_another_user_is_reported_with_the_chown(used, environment, monkeypatch):
    be_another_user(monkeypatch)
    answer = root.permissions(environment)
    assert FAILED is answer.verdict
    assert "owned by another user" in answer.found
    assert answer.remedy.startswith(f"sudo chown {os.geteuid()} {used.root} ")
    assert "and so on: there are" in answer.remedy


def test_a_root_that_every_user_can_write_to_fails(used, environment):
    used.root.chmod(0o777)

    answer = root.permissions(environment)
    assert (FAILED, f"chmod go-rwx {used.root}") == (answer.verdict, answer.remedy)
    subprocess.run(answer.remedy, shell=True, check=True)

    assert OK is root.permissions(environment).verdict


def test_the_modes_of_a_kept_worktree_do_not_matter_below_a_private_directory(used, environment):
    """Git checks files out for everybody; the agent's own directory lets no other user in."""
    held = used.root / "held" / "a-1"
    (held / "worktree").mkdir(parents=True, mode=0o755)
    (held / "worktree" / "code.py").touch()
    (held / "worktree" / "code.py").chmod(0o664)
    held.chmod(0o700)
    held.parent.chmod(0o700)
    assert OK is root.permissions(environment).verdict

    held.chmod(0o755)
    answer = root.permissions(environment)

    assert "open to others" in answer.found
    assert str(held / "worktree") in answer.remedy


def test_the_files_of_the_check_of_calls_are_no_finding_of_the_check_of_permissions(
    used, environment
):
    """Both checks run at the same time."""
    trial = used.root / f"{root.TRIAL_PREFIX}running"
    trial.mkdir(mode=0o700)
    (trial / "public").touch(mode=0o644)

    assert OK is root.permissions(environment).verdict


def test_a_file_that_others_can_read_is_a_warning_and_the_remedy_works(used, environment):
    prompt = next(used.root.glob("TASK-*/agent_prompt_*"))
    prompt.chmod(0o644)

    answer = root.permissions(environment)
    assert WARNING is answer.verdict
    assert f"open to others: {prompt}" == answer.found
    subprocess.run(answer.remedy, shell=True, check=True)

    assert OK is root.permissions(environment).verdict
    assert 0o600 == stat.S_IMODE(prompt.stat().st_mode)


def test_a_symlink_fails_outside_the_directories_of_agents(used, environment):
    (used.root / used.task / "output" / "theirs").symlink_to("/etc/passwd")
    assert OK is root.permissions(environment).verdict

    link = used.root / used.task / "logs" / "planted"
    link.symlink_to("/etc/passwd")

    answer = root.permissions(environment)
    assert (FAILED, f"rm {link}") == (answer.verdict, answer.remedy)


@pytest.mark.parametrize("which", ["scandir", "lstat"])
def test_an_unreadable_directory_fails(used, environment, monkeypatch, which):
    """Either its names or their states are unreadable."""
    logs, real = f"{used.root}/{used.task}/logs", getattr(os, which)

    def refused(path, *how, **more):
        if (
            (os.fspath(path) == logs)
            if which == "scandir"
            else os.fspath(path).startswith(f"{logs}/")
        ):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *how, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, which, refused)
        answer = root.permissions(environment)

    assert FAILED is answer.verdict
    assert f"cannot be read: {logs}" in answer.found
    assert answer.remedy.startswith(f"chmod u+rwx {logs}")


def test_files_beyond_the_scan_limit_are_unknown(environment, monkeypatch):
    monkeypatch.setattr(root, "_MAX_SCANNED", 5)
    answer = root.permissions(environment)
    assert UNKNOWN is answer.verdict
    assert "the first 5 files" in answer.found
    assert "orchestrator-core gc" in answer.remedy


# --- settings -------------------------------------------------------------------------------------


def check_settings(used, text, mode=0o600, *, approved=True):
    path = used.root / "orchestrator.toml"
    path.write_text(text)
    path.chmod(mode)
    if approved:
        with contextlib.suppress(OrchestratorError):  # A file that is refused.
            settings.approve(used.root)
    return by_name(doctor.examine(used.root))["settings"]


def test_missing_and_readable_settings_are_ok(used):
    assert OK is by_name(doctor.examine(used.root))["settings"].verdict
    assert OK is check_settings(used, '[alerts]\ncommand = ["sh", "-c", "true"]\n').verdict


def test_commands_that_the_user_has_not_approved_are_a_warning(used):
    check = check_settings(used, '[alerts]\ncommand = ["true"]\n', approved=False)

    assert WARNING is check.verdict
    assert "[alerts]" in check.found
    assert "orchestrator-core approve" in check.remedy


@pytest.mark.parametrize(
    ("text", "mode", "expected", "remedy"),
    [
        ("[retention]\ndayz = 1\n", 0o600, "dayz", "configuration"),
        ("[reten", 0o600, "orchestrator.toml", "configuration"),
        ("", 0o666, "written by others", "chmod go-w"),
    ],
)
def test_invalid_settings_fail(used, text, mode, expected, remedy):
    check = check_settings(used, text, mode)
    assert FAILED is check.verdict
    assert expected in check.found
    assert remedy in check.remedy


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "work/relative"])
def test_a_missing_alert_command_is_a_warning(used, program):
    """The command would be missing on the day of an alert."""
    check = check_settings(used, f'[alerts]\ncommand = ["{program}"]\n')
    assert WARNING is check.verdict
    assert program in check.found
    assert "orchestrator.toml" in check.remedy


# --- the file system ------------------------------------------------------------------------------


def mount(kind, point, source, options="rw"):
    return filesystem.Mount(source, str(point), kind, options)


MOUNTS = [
    mount("ext4", "/", "/dev/sda1", "rw,relatime"),
    mount("nfs4", "/mnt/nfs", "server:/export", "rw,vers=4.2"),
    mount("cifs", "/mnt/cifs", "//server/share"),
    mount("fuse.sshfs", "/mnt/sshfs", "me@host:/"),
    mount("9p", "/mnt/host", "host"),
    mount("vfat", "/mnt/usb", "/dev/sdb1"),
    mount("tmpfs", "/mnt/mem", "tmpfs", "rw,size=1g"),
    mount("overlay", "/mnt/over", "overlay", "rw,lowerdir=/a"),
    mount("ext4", "/mnt/cd", "/dev/sr0", "ro,relatime"),
    mount("xfs", "/mnt/frozen", "/dev/sdc", "ro"),
    mount("ext4", "/mnt/fast", "/dev/sdd", "rw,nobarrier"),
    mount("btrfs", "/mnt/a b", "/dev/sde"),
    mount("ext4", "/mnt/twice", "/dev/sdf"),
    mount("nfs", "/mnt/twice", "server:/other"),
    mount("ext4", "/mnt/nf", "/dev/sdg"),
]


@pytest.mark.parametrize(
    ("path", "verdict", "expected"),
    [
        ("/home/me/ws", OK, "ext4 at /"),
        ("/mnt/nfs/ws", WARNING, "nfs4 at /mnt/nfs: a network file system"),
        ("/mnt/nfs", WARNING, "nfs4 at /mnt/nfs"),
        ("/mnt/nfsx", OK, "ext4 at /"),
        ("/mnt/cifs/ws", WARNING, "cifs at /mnt/cifs: a network file system"),
        ("/mnt/sshfs/ws", WARNING, "fuse.sshfs at /mnt/sshfs (me@host:/)"),
        ("/mnt/host/ws", WARNING, "shared by a virtual machine's host"),
        ("/mnt/usb/ws", FAILED, "no permissions, sockets or hard links"),
        ("/mnt/mem/ws", WARNING, "gone after a reboot"),
        ("/mnt/over/ws", WARNING, "a container's own layer"),
        ("/mnt/cd/ws", FAILED, "read-only"),
        ("/mnt/frozen/ws", FAILED, "read-only"),
        ("/mnt/fast/ws", WARNING, "with nobarrier: a power failure"),
        ("/mnt/a b/ws", OK, "btrfs at /mnt/a b"),
        ("/mnt/twice/ws", WARNING, "nfs at /mnt/twice"),
        ("/mnt/nf/ws", OK, "ext4 at /mnt/nf"),
    ],
)
def test_a_file_system_is_reported_with_its_risk(path, verdict, expected):
    answer = filesystem.assess(filesystem.mount_of(Path(path), MOUNTS))
    assert verdict is answer.verdict
    assert expected in answer.found
    assert (verdict is OK) == (not answer.remedy)


def test_the_root_is_on_the_file_system_that_the_kernel_reports(environment, monkeypatch):
    at = environment.root.resolve()
    mounts = [*MOUNTS, mount("nfs4", at, "server:/export")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)

    answer = filesystem.kind(environment)

    assert f"nfs4 at {at}: a network file system" in answer.found
    assert "local disk" in answer.remedy


def test_a_missing_root_is_on_the_file_system_of_its_parent(tmp_path, monkeypatch):
    mounts = [*MOUNTS, mount("nfs4", tmp_path.resolve(), "server:/export")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert "nfs4" in filesystem.kind(subject(tmp_path / "not" / "yet")).found


def test_the_file_system_is_unknown_without_mounts(environment, monkeypatch):
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])
    assert UNKNOWN is filesystem.kind(environment).verdict


def test_a_missing_library_of_a_check_is_reported_and_is_no_defect(used, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    check = by_name(doctor.examine(used.root))["file system"]
    assert (FAILED, "see: libraries") == (check.verdict, check.remedy)
    assert "psutil" in check.found


def no_lock(*_):
    """An flock that succeeds without an effect."""


def rename_in_place(old, new):
    Path(new).write_bytes(Path(old).read_bytes())
    Path(old).unlink()


def link_over(old, new):
    shutil.copyfile(old, new)


DISHONEST = {
    "locks": (fcntl, "flock", no_lock, "does not keep another process out"),
    "no locks": (fcntl, "flock", refuse(37), "locks: "),
    "rename": (os, "rename", lambda *_: None, "is not in its place"),
    "rename in place": (os, "rename", rename_in_place, "does not see the old content"),
    "fsync": (os, "fsync", refuse(22), "fsync: "),
    "hard links": (os, "link", refuse(1), "hard links: "),
    "links that overwrite": (os, "link", link_over, "a link overwrites an existing name"),
    "FIFOs": (os, "mkfifo", refuse(1), "FIFOs: "),
    "sockets": (socket.socket, "bind", refuse(95), "sockets: "),
    "modes": (Path, "chmod", lambda *_: None, "a file created as 0600 is 0644"),
    "the server's clock": (
        time,
        "time",
        lambda: 0.0,
        "its clock and the clock of this machine differ",
    ),
}


@pytest.mark.parametrize("fault", DISHONEST)
def test_a_file_system_with_a_faulty_call_fails(used, environment, monkeypatch, fault):
    module, name, dishonest, expected = DISHONEST[fault]
    before = used.world.snapshot()
    mask = os.umask(0o022)
    try:
        monkeypatch.setattr(module, name, dishonest)
        answer = filesystem.operations(environment)
    finally:
        os.umask(mask)
        monkeypatch.undo()

    assert FAILED is answer.verdict
    assert expected in answer.found
    assert "local disk" in answer.remedy
    assert before == used.world.snapshot()


def test_a_lock_that_is_not_released_fails(environment, monkeypatch):
    real = fcntl.flock

    def keeps(fd, how):
        return None if how == fcntl.LOCK_UN else real(fd, how)

    monkeypatch.setattr(fcntl, "flock", keeps)
    assert "still keeps other processes out" in filesystem.operations(environment).found


def test_a_correct_file_system_is_ok_and_is_not_changed(used, environment):
    before = used.world.snapshot()
    answer = filesystem.operations(environment)
    assert OK is answer.verdict, answer.found
    assert before == used.world.snapshot()


def test_a_disk_that_accepts_no_file_fails(environment, monkeypatch):
    monkeypatch.setattr(os, "mkdir", refuse(30))
    answer = filesystem.operations(environment)
    assert FAILED is answer.verdict
    assert "Read-only file system" in answer.found


@pytest.mark.parametrize(
    ("free", "inodes", "verdict", "expected"),
    [
        (1 << 40, 1 << 30, OK, "1048576 MiB and 1073741824 inodes are free"),
        (100 << 20, 1 << 30, WARNING, "only 100 MiB are free"),
        (1 << 20, 1 << 30, FAILED, "only 1 MiB are free"),
        (1 << 40, 5000, WARNING, "only 5000 inodes are free"),
        (1 << 40, 5, FAILED, "only 5 inodes are free"),
        (1 << 40, None, OK, "1048576 MiB are free"),
    ],
)
def test_little_free_space_is_reported(environment, monkeypatch, free, inodes, verdict, expected):
    status = types.SimpleNamespace(
        f_bavail=free >> 12, f_frsize=4096, f_files=inodes and 1 << 31, f_favail=inodes
    )
    monkeypatch.setattr(os, "statvfs", lambda _: status)

    answer = filesystem.space(environment)

    assert (verdict, expected) == (answer.verdict, answer.found)
    assert (verdict is OK) == ("orchestrator-core gc" not in answer.remedy)


# --- the clock ------------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_is_a_warning(environment, monkeypatch):
    assert OK is machine.clock_is_sane(environment).verdict

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)

    answer = machine.clock_is_sane(environment)
    assert WARNING is answer.verdict
    assert "the clock was set back" in answer.found
    assert "timedatectl set-ntp true" in answer.remedy


def test_a_clock_that_was_never_set_fails(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 3600.0)
    answer = machine.clock_is_sane(subject(None))
    assert (FAILED, True) == (answer.verdict, "1970-01-01T01:00" in answer.found)


@pytest.mark.parametrize("step", [+86400.0, -86400.0])
def test_a_clock_that_was_set_during_an_agents_life_is_a_warning(
    used, environment, monkeypatch, step
):
    """The kernel has the age of the supervisor, and the journal has the time of deployment."""
    history = machine.JournalStore(used.root / "sagas").history(used.lives)
    process = history.frame("spawn_tmux").load().supervisor
    # As the kernel's answer for the fake's supervisor: alive, and just started.
    monkeypatch.setattr(machine, "_IS_LINUX", True)
    monkeypatch.setattr(identity, "is_alive", lambda asked: asked == process)
    monkeypatch.setattr(identity, "age_s", lambda _: 0.0)
    assert OK is machine.clock_is_sane(environment).verdict
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + step)

    answer = machine.clock_is_sane(environment)

    assert WARNING is answer.verdict
    found = re.search(r"the clock was set by (\S+) s since (\S+) was deployed", answer.found)
    assert used.lives == found[2]
    assert abs(float(found[1]) - step) < 60


# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal"])
def test_a_kernel_or_a_container_without_pidfds_fails(monkeypatch, call):
    assert OK is machine.pidfd(subject(None)).verdict
    module = os if call == "pidfd_open" else signal
    monkeypatch.setattr(machine, "_IS_LINUX", True)
    monkeypatch.setattr(module, call, refuse(38), raising=False)

    answer = machine.pidfd(subject(None))

    assert FAILED is answer.verdict
    assert f"{call}: Function not implemented" == answer.found
    assert "seccomp" in answer.remedy


def test_a_python_without_pidfds_fails(monkeypatch):
    monkeypatch.setattr(machine, "_IS_LINUX", True)
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    answer = machine.pidfd(subject(None))
    assert FAILED is answer.verdict
    assert sys.executable in answer.remedy


PROC = "22 1 0:21 / /proc rw,nosuid - proc proc rw"


@pytest.mark.parametrize(
    ("mountinfo", "status", "verdict", "expected", "remedy"),
    [
        (PROC, {}, OK, "all processes", ""),
        (f"{PROC},hidepid=0", {}, OK, "all processes", ""),
        (f"{PROC},hidepid=invisible", {}, OK, "hides the processes of other users only", ""),
        (f"{PROC},hidepid=ptraceable", {}, WARNING, "is hidden", "mount -o remount,hidepid="),
        (f"{PROC},hidepid=4", {}, WARNING, "is hidden", "mount -o remount,hidepid="),
        ("", {}, FAILED, "/proc is not there", "mount -t proc proc /proc"),
        (PROC, {"boot_id": False}, FAILED, "not all of it", "mount -t proc proc /proc"),
        (PROC, {"environ": False}, FAILED, "does not show the environment", "seccomp"),
    ],
)
def test_a_proc_is_assessed_by_what_it_shows(mountinfo, status, verdict, expected, remedy):
    answer = machine.assess_procfs(mountinfo, **{"boot_id": True, "environ": True, **status})
    assert verdict is answer.verdict
    assert expected in answer.found
    assert remedy in answer.remedy


def test_each_needed_file_of_proc_is_read(monkeypatch):
    if not ON_LINUX:
        assert OK is machine.procfs(subject(None)).verdict
        return
    assert OK is machine.procfs(subject(None)).verdict
    real = machine.proc.read
    for hidden in ("mountinfo", "boot_id", "environ"):
        monkeypatch.setattr(
            machine.proc,
            "read",
            lambda path, h=hidden, **how: b"" if h in path else real(path, **how),
        )
        assert FAILED is machine.procfs(subject(None)).verdict


@pytest.mark.parametrize(("code", "verdict"), [(0, OK), (1, FAILED)])
def test_a_container_without_subreapers_fails(monkeypatch, code, verdict):
    monkeypatch.setattr(machine, "_IS_LINUX", True)
    monkeypatch.setattr(machine, "_BECOME", f"import sys; sys.exit({code})")
    answer = machine.subreaper(subject(None))
    assert verdict is answer.verdict
    assert ("prctl" in answer.remedy) == (verdict is FAILED)


def test_this_machine_allows_a_subreaper():
    assert OK is machine.subreaper(subject(None)).verdict


@pytest.mark.parametrize(
    ("asked", "has_cgroup", "verdict", "expected"),
    [
        ("auto", True, OK, "a separate cgroup for each agent"),
        ("auto", False, OK, "a subreaper for each agent"),
        ("cgroup", True, OK, "a separate cgroup for each agent"),
        ("cgroup", False, WARNING, "ends will be unproven"),
        ("scan", True, WARNING, "scans alone"),
        ("magic", True, FAILED, "magic"),
    ],
)
def test_the_containment_is_reported(tmp_path, monkeypatch, asked, has_cgroup, verdict, expected):
    monkeypatch.setattr(machine, "_IS_LINUX", True)
    place = str(tmp_path / "oc_doctor") if has_cgroup else None
    monkeypatch.setattr(machine.cgroups, "path_for", lambda _: place)

    answer = machine.containment(subject(None, env={"ORCHESTRATOR_CONTAINMENT": asked}))

    assert verdict is answer.verdict
    assert expected in answer.found
    assert (verdict is OK) == ("unset ORCHESTRATOR_CONTAINMENT" not in answer.remedy)
    assert [] == list(tmp_path.iterdir())


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "verdict", "remedy"),
    [
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), OK, ""),
        ((4096, 4096), OK, ""),
        ((256, 8192), WARNING, "ulimit -n 4096"),
        ((256, resource.RLIM_INFINITY), WARNING, "ulimit -n 4096"),
        ((256, 512), WARNING, "ulimit -n 4096, once the hard limit is raised"),
        ((64, 8192), FAILED, "ulimit -n 4096"),
    ],
)
def test_a_low_limit_of_open_files_is_reported(monkeypatch, limit, verdict, remedy):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    answer = resource_limits.open_files(subject(None))
    assert (verdict, remedy) == (answer.verdict, answer.remedy)


@pytest.mark.parametrize(
    ("more", "verdict", "expected"),
    [
        (1000, OK, "has 2"),
        (31, WARNING, "enough for 31 more agents"),
        (0, FAILED, "panes stay empty"),
        (-1, FAILED, "panes stay empty"),
    ],
)
def test_a_low_limit_of_file_events_is_reported(monkeypatch, more, verdict, expected):
    """Two instances are open in this process; those of other processes are ignored."""
    held = [system.inotify({"/": 0x2})[0] for _ in range(2)]
    limit = b"%d\n" % (len(held) + more)
    monkeypatch.setattr(resource_limits.proc, "pids", lambda: [os.getpid(), 1])
    monkeypatch.setattr(resource_limits, "_is_owned", lambda pid: pid == os.getpid())
    monkeypatch.setattr(resource_limits.proc, "read", lambda _path: limit)

    answer = resource_limits.file_events(subject(None))

    for fd in held:
        os.close(fd)
    assert verdict is answer.verdict
    assert expected in answer.found
    assert ("max_user_instances" in answer.remedy) is (verdict is not OK)


@pytest.mark.parametrize(
    ("left", "verdict", "expected"),
    [
        (5000, OK, ""),
        (100, WARNING, "room for 2"),
        (5, FAILED, "room for 1"),
        (-3, FAILED, "for 0"),
    ],
)
def test_little_room_for_processes_is_reported(monkeypatch, left, verdict, expected):
    """Each thread of this user counts, and those of other users do not."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource_limits.proc, "pids", lambda: [1, 2, 3])
    monkeypatch.setattr(resource_limits, "_is_owned", lambda pid: pid != 3)
    threads = {1: b"Name: a\nThreads:\t3\n", 2: b"Threads:\t4\n", 3: b"Threads:\t1000\n"}
    monkeypatch.setattr(
        resource_limits.proc, "read", lambda path: threads.get(int(path.split("/")[2]), b"")
    )
    monkeypatch.setattr(resource_limits.cgroups, "current_cgroup", lambda: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7 + left, 7 + left))

    answer = resource_limits.processes(subject(None))

    assert verdict is answer.verdict
    assert "has 7" in answer.found
    assert expected in answer.found
    assert (verdict is OK) == ("ulimit -u" not in answer.remedy)


def test_a_nearly_full_control_group_is_reported(monkeypatch, tmp_path):
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("99\n")
    monkeypatch.setattr(resource_limits.cgroups, "current_cgroup", lambda: tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    answer = resource_limits.processes(subject(None))
    assert FAILED is answer.verdict
    assert "may have 100 processes, and has 99" in answer.found
    assert f"{tmp_path}/pids.max" in answer.remedy

    (tmp_path / "pids.max").write_text("max\n")
    assert OK is resource_limits.processes(subject(None)).verdict


# --- locks ----------------------------------------------------------------------------------------


def sign(path, pid, *, ago_s=0.0):
    when = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago_s))
    path.write_text(f"{pid:<10} {when}\n")


@pytest.fixture
def lock_file(used):
    return used.root / "registry" / "GLOBAL_REGISTRY.json.lock"


@pytest.fixture
def held(lock_file):
    with lock_file.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lock_file


@pytest.fixture
def a_dead_pid():
    with subprocess.Popen(["true"]) as child:
        child.wait()
    return child.pid


def test_free_locks_are_ok(environment):
    answer = integrity.locks(environment)
    assert OK is answer.verdict
    assert "none held now" in answer.found


def test_a_lock_held_for_a_short_time_is_ok_and_reported(environment, held):
    sign(held, os.getpid())
    answer = integrity.locks(environment)
    assert OK is answer.verdict
    assert f"{held} by pid {os.getpid()}" in answer.found


def test_a_lock_held_for_long_fails_with_its_owner(environment, held):
    sign(held, os.getpid(), ago_s=300)
    answer = integrity.locks(environment)
    assert FAILED is answer.verdict
    assert re.search(rf"held for 30\d s by pid {os.getpid()} \(", answer.found)
    assert answer.remedy.endswith(f"kill {os.getpid()}")


def test_the_kernel_names_an_owner_that_has_not_signed(environment, held):
    held.write_bytes(b"-")
    owner = f"pid {os.getpid()}" if ON_LINUX else "an unknown process"
    assert f"{held} by {owner}" in integrity.locks(environment).found


@pytest.mark.parametrize("pid", [0, -1])
def test_no_remedy_kills_many_processes(environment, held, monkeypatch, pid):
    """For kill, 0 is the caller's group, and -1 is every process of the user."""
    sign(held, 99999999, ago_s=300)
    monkeypatch.setattr(integrity, "kernel_owner_pid", lambda _: pid)

    answer = integrity.locks(environment)

    assert FAILED is answer.verdict
    assert "kill" not in answer.remedy
    assert f"lsof {held}" in answer.remedy


def test_a_lock_of_a_dead_owner_is_a_warning(used, environment, lock_file, a_dead_pid):
    sign(lock_file, a_dead_pid, ago_s=300)
    before = lock_file.read_bytes()

    answer = integrity.locks(environment)

    assert WARNING is answer.verdict
    assert f"pid {a_dead_pid} died while it held it" in answer.found
    assert "nothing by hand" in answer.remedy
    assert before == lock_file.read_bytes()
    used.orchestrator().create_task("the next to take it")
    assert OK is integrity.locks(environment).verdict


_FAILS = """
import sys
from pathlib import Path
from orchestrator_core.registry import TASK, Registry
try:
    with Registry(Path(sys.argv[1]), schema=TASK).transaction():
        sys.exit("there is no such registry")
except LookupError:
    pass
"""


def test_an_owner_that_gave_up_with_an_error_did_not_die(used, environment):
    """A process met a removed registry, released the lock, and has ended since."""
    path = Layout(used.root).task_registry(used.task)
    path.unlink()
    subprocess.run([sys.executable, "-c", _FAILS, str(path)], check=True)

    assert OK is integrity.locks(environment).verdict


# --- integrity ------------------------------------------------------------------------------------


def test_an_undamaged_root_is_ok(environment):
    for check in (integrity.root_file, integrity.registries, integrity.journals):
        assert OK is check(environment).verdict


def test_a_missing_root_has_no_damage(tmp_path):
    for check in (integrity.root_file, integrity.registries, integrity.journals):
        assert OK is check(subject(tmp_path / "none")).verdict


def test_an_unused_root_has_no_damage(tmp_path):
    assert "created when the root is first used" in integrity.root_file(subject(tmp_path)).found


@pytest.mark.parametrize("harm", ["gone", "cut off"])
def test_the_remedy_for_root_json_writes_it_back(used, harm):
    """The remedy is a command that restores the same server and the same agents."""
    path = used.root / "root.json"
    known = msgspec.json.decode(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])

    answer = integrity.root_file(subject(used.root))
    assert FAILED is answer.verdict
    subprocess.run(answer.remedy, shell=True, check=True)

    again = subject(used.root)
    assert OK is integrity.root_file(again).verdict
    assert (known["root_id"], Path(known["tmux_socket"])) == again.root_record[1:3]


def test_a_root_json_of_a_newer_release_fails(used):
    path = used.root / "root.json"
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 9'))
    answer = integrity.root_file(subject(used.root))
    assert (FAILED, "upgrade orchestrator-core") == (answer.verdict, answer.remedy)


def test_a_copied_root_fails_and_the_remedy_makes_it_independent(used):
    copy = used.root.parent / "copy"
    subprocess.run(["cp", "-a", used.root, copy], check=True)

    answer = integrity.root_file(subject(copy))

    assert FAILED is answer.verdict
    assert f"it is a copy of {used.root}" in answer.found
    assert f"use {used.root}; or" in answer.remedy
    subprocess.run(answer.remedy.partition("a separate root: ")[2], shell=True, check=True)
    assert OK is integrity.root_file(subject(copy)).verdict
    assert OK is integrity.root_file(subject(used.root)).verdict


def test_a_moved_root_is_no_copy(used):
    moved = used.root.parent / "moved"
    used.root.rename(moved)
    assert OK is integrity.root_file(subject(moved)).verdict


@pytest.mark.parametrize("harm", ["damaged", "gone"])
@pytest.mark.parametrize("which", ["global", "task"])
def test_a_damaged_or_missing_registry_fails_with_its_repair(used, environment, which, harm):
    layout = Layout(used.root)
    path = layout.global_registry if which == "global" else layout.task_registry(used.task)
    if harm == "gone":
        (path.parent / f"{path.name}.damaged-20251101-101010").touch(mode=0o600)
        path.unlink()
    else:
        path.write_text("{")

    answer = integrity.registries(environment)

    assert FAILED is answer.verdict
    assert f"{path} is {harm}" in answer.found
    options = "--global" if which == "global" else f"--task {used.task}"
    assert f"orchestrator-core repair {options}, and with --yes" in answer.remedy


def test_a_quarantined_registry_is_a_warning_until_its_removal(used, environment):
    quarantined = used.root / "registry" / "GLOBAL_REGISTRY.json.damaged-20251101-101010"
    quarantined.touch(mode=0o600)

    answer = integrity.registries(environment)
    assert WARNING is answer.verdict
    assert f"rm {quarantined}" in answer.remedy
    subprocess.run(answer.remedy.rpartition(": ")[2], shell=True, check=True)

    assert OK is integrity.registries(environment).verdict


@pytest.mark.parametrize(
    ("text", "remedy"), [("{", "orchestrator-core stats"), ('{"bytes_freed": "much"}', "mv ")]
)
def test_unusable_statistics_are_a_warning(used, environment, text, remedy):
    """No other file has the counts, so their loss would go unnoticed."""
    path = Layout(used.root).statistics
    path.write_text(text)
    path.chmod(0o600)

    answer = integrity.registries(environment)
    assert WARNING is answer.verdict
    assert str(path) in answer.found
    assert remedy in answer.remedy
    if remedy == "mv ":
        subprocess.run(answer.remedy.rpartition(": ")[2], shell=True, check=True)
    else:
        used.orchestrator().stats()

    answer = integrity.registries(environment)
    assert "from when it was damaged" in answer.found
    subprocess.run(answer.remedy.rpartition(": ")[2], shell=True, check=True)
    assert OK is integrity.registries(environment).verdict


def test_a_registry_of_a_newer_release_fails(used, environment):
    path = Layout(used.root).global_registry
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**document, "schema_version": 999}))
    answer = integrity.registries(environment)
    assert FAILED is answer.verdict
    assert "999" in answer.found


@pytest.mark.parametrize(
    ("state", "verdict", "remedy"),
    [("open", FAILED, "orchestrator-core recover"), ("closed", WARNING, "rm ")],
)
def test_a_damaged_journal_is_reported_by_the_state_of_its_agent(
    used, environment, state, verdict, remedy
):
    pattern = "*.jsonl" if state == "open" else "closed/*.jsonl"
    journal = next((used.root / "sagas").glob(pattern))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"nonsense\n", *lines[1:]]))

    answer = integrity.journals(environment)

    assert verdict is answer.verdict
    assert str(journal) in answer.found
    assert remedy in answer.remedy


def test_a_quarantined_journal_is_a_warning_until_its_removal(used, environment):
    quarantined = used.root / "sagas" / "a-1.jsonl.damaged-1"
    quarantined.touch()
    answer = integrity.journals(environment)
    assert WARNING is answer.verdict
    subprocess.run(answer.remedy.partition(": ")[2], shell=True, check=True)
    assert OK is integrity.journals(environment).verdict


def test_a_torn_last_line_is_no_damage(used, environment):
    journal = next((used.root / "sagas").glob("*.jsonl"))
    with journal.open("ab") as file:
        file.write(b'{"kind":"unw')
    assert OK is integrity.journals(environment).verdict


def test_journals_beyond_the_time_limit_are_unknown(used):
    answer = integrity.journals(subject(used.root, timeout_s=-1.0))
    assert UNKNOWN is answer.verdict
    assert "only the newest 0 of 2 journals" in answer.found
    assert "orchestrator-core gc" in answer.remedy


def test_several_problems_are_one_result_with_the_worst_verdict():
    answers = [
        Check.ok("a"),
        Check.warning("b", "do b"),
        Check.failed("c", "do c"),
        Check.unknown("d", "do b"),
    ]
    assert Check.failed("b; c; d", "do b; do c") == Check.worst_of(answers, well="fine")
    assert Check.ok("fine") == Check.worst_of([Check.ok("a")], well="fine")
    assert "1, 2, 3 and 2 more" == shorten_list(range(1, 6))
