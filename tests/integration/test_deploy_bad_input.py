"""
Bad input and bad luck: refused before anything is taken, or carried out as asked.

Each refusal is an error of the library that names the value, its place and the remedy. After it,
nothing new is on the disk or in tmux.
"""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_core import AgentSpec, Orchestrator
from orchestrator_core.exceptions import (
    InvalidId,
    InvalidInput,
    NotFound,
    StorageError,
    TerminalUnavailable,
)

pytestmark = pytest.mark.tmux

BAD_IDS = [
    *("", ".", "..", "a/b", "../a", "/etc/passwd", "a\0b", "a\nb", "a:b", "a.b", "#(touch x)"),
    *(
        "#{pid}",
        "a b",
        "-a",
        "_a",
        "a'b",
        '"',
        "$(id)",
        "`id`",
        "ä",
        "名",
        "a" * 300,
        "a;b",
        "a\x1b",
    ),
]


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


class Untouched:
    """Nothing on the disk or in tmux changes."""

    def __init__(self, scene):
        self._scene, self._before = scene, scene.world.snapshot()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self._before == self._scene.world.snapshot()
        assert [] == self._scene.world.sessions()
        assert {} == self._scene.world.processes()


# --- ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
def test_an_invalid_id_is_refused_by_every_method(bad, scene, orch, task):
    """A bad type, key, parent, task or agent raises InvalidId, with a hint, before any effect."""
    takers = [
        lambda: orch.deploy(task, scene.spec(type=bad)),
        lambda: orch.deploy(task, scene.spec(key=bad)),
        lambda: orch.deploy(task, scene.spec(parent=bad)),
        lambda: orch.deploy(bad, scene.spec()),
        lambda: orch.create_task("described", key=bad),
        lambda: orch.task(bad),
        lambda: orch.agents(task_id=bad),
        *(
            lambda ask=ask: ask(bad)
            for ask in (orch.agent, orch.terminate, orch.read_output, orch.history, orch.recover)
        ),
        lambda: orch.report_progress(bad, "working"),
        lambda: orch.report_finding(bad, "found"),
        lambda: orch.wait(bad, timeout_s=0),
    ]
    for take in takers:
        with Untouched(scene), pytest.raises(InvalidId) as raised:
            take()
        assert raised.value.hint
        assert len(str(raised.value)) < 300


def test_an_unknown_id_is_not_found(scene, orch, task):
    """A well-formed id that names nothing: NotFound, and nothing is created for it."""
    for ask in (orch.agent, orch.terminate, orch.read_output, orch.history):
        with Untouched(scene), pytest.raises(NotFound):
            ask("a-000000-abcdef")
    with Untouched(scene), pytest.raises(NotFound):
        orch.deploy("TASK-20200101-000000-00000000", scene.spec())
    with Untouched(scene), pytest.raises(NotFound):
        orch.deploy(task, scene.spec(parent="a-000000-abcdef"))


# --- what is asked for ------------------------------------------------------------------------


def _bad_specs(place):
    plain = place / "plain"
    plain.write_text("not executable")
    return {
        "an empty prompt": {"prompt": ""},
        "a blank prompt": {"prompt": " \n\t"},
        "a prompt that is no Unicode": {"prompt": "a\ud800"},
        "an empty command": {"command": []},
        "an empty program": {"command": [""]},
        "a NUL in an argument": {"command": ["sleep", "a\0b"]},
        "a program that is not there": {"command": ["no-such-program-anywhere"]},
        "a path that is not there": {"command": ["/no/such/program"]},
        "a file that is not executable": {"command": [str(plain)]},
        "a directory as program": {"command": [str(place)]},
        "a directory that is missing": {"cwd": str(place / "missing")},
        "a file as directory": {"cwd": str(plain)},
        "a directory below a file": {"cwd": str(plain / "x")},
        "a directory with too long a name": {"cwd": str(place / ("a" * 300))},
        "a directory in a loop of symlinks": {"cwd": _link(place / "loop", place / "loop")},
        "a directory with a NUL in it": {"cwd": "a\0b"},
        "a dangling symlink as directory": {"cwd": _link(place / "dangling", place / "missing")},
        "a name with = in the environment": {"env": {"A=B": "c"}},
        "an empty name in the environment": {"env": {"": "c"}},
        "a NUL in the environment": {"env": {"A": "b\0c"}},
        "another identity": {"env": {"ORCHESTRATOR_AGENT_ID": "somebody"}},
        "a deadline in the past": {"deadline_s": -1.0},
        "a deadline that is no number": {"deadline_s": float("nan")},
    }


def _link(path, target):
    path.symlink_to(target)
    return str(path)


def test_an_impossible_spec_is_refused_before_anything_is_taken(scene, orch, task):
    """Each error names the wrong value."""
    for what, how in _bad_specs(scene.place).items():
        with Untouched(scene), pytest.raises(InvalidInput) as raised:
            orch.deploy(task, AgentSpec(**{"type": "a", "prompt": "p", "command": ["true"], **how}))
        assert str(raised.value), what
        assert () == raised.value.leaked


def test_a_working_directory_that_is_gone_is_refused_before_anything_is_taken(
    scene, orch, task, monkeypatch
):
    gone = scene.place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with Untouched(scene), pytest.raises(InvalidInput) as raised:
        orch.deploy(task, scene.spec(cwd=None))
    assert raised.value.hint


@pytest.mark.parametrize("grace_s", [-1.0, float("nan"), "5"])
def test_an_invalid_grace_is_refused(grace_s, scene, orch, task):
    with Untouched(scene), pytest.raises(InvalidInput):
        orch.deploy(task, scene.spec(), grace_s=grace_s)


@pytest.mark.parametrize("description", ["", "  ", "\n"])
def test_a_task_without_a_description_is_refused(description, scene, orch):
    orch.create_task("one, so that there is a root")
    with Untouched(scene), pytest.raises(InvalidInput):
        orch.create_task(description)


@pytest.mark.parametrize(
    "report",
    [
        {"status": "swimming"},
        {"status": ""},
        {"status": "working", "progress": 101},
        {"status": "working", "progress": -1},
    ],
    ids=str,
)
def test_an_invalid_report_changes_nothing(report, scene, orch, task):
    agent = orch.deploy(task, scene.spec())
    before = scene.world.snapshot()
    with pytest.raises(InvalidInput):
        orch.report_progress(agent.id, **report)
    with pytest.raises(InvalidInput):
        orch.report_finding(agent.id, "found", severity="loud")
    with pytest.raises(InvalidInput):
        orch.report_finding(agent.id, "found", data={"a": object()})
    assert before == scene.world.snapshot()


def test_a_directory_behind_a_symlink_is_used(scene, orch, task):
    """A symlink to a directory is a directory, as everywhere."""
    spec = scene.spec("sh", "-c", "pwd -P", cwd=_link(scene.place / "link", scene.work))
    agent = orch.deploy(task, spec)
    orch.wait(agent.id, timeout_s=20)

    assert f"{scene.work}\n" == orch.read_output(agent.id)


# --- where it happens -----------------------------------------------------------------------


def test_a_missing_tmux_is_reported_before_anything_is_taken(scene, task, monkeypatch):
    """The hint has the command that installs the program."""
    monkeypatch.setenv("PATH", str(scene.work))
    with Untouched(scene), pytest.raises(TerminalUnavailable) as raised:
        scene.orchestrator().deploy(task, scene.spec("/bin/true"))
    assert "apt-get install tmux" in raised.value.hint


@pytest.mark.parametrize("version", ["tmux 2.9", "tmux 3.1c", "screen 4.9", ""])
def test_an_old_tmux_is_reported_before_anything_is_taken(version, scene, task, monkeypatch):
    scene.program("work/tmux", f"#!/bin/sh\necho '{version}'\n")
    monkeypatch.setenv("PATH", f"{scene.work}:{os.environ['PATH']}")
    with Untouched(scene), pytest.raises(TerminalUnavailable, match=r"3\.2"):
        scene.orchestrator().deploy(task, scene.spec("/bin/true"))


def _in_another_process(scene, env=None, *, before=""):
    """Run a whole life, as a separate program in another environment."""
    code = (
        f"{before}\n"
        "import sys; from orchestrator_core import AgentSpec, Orchestrator\n"
        "orch = Orchestrator(sys.argv[1])\n"
        "task = orch.create_task('tr\\u00efed')\n"
        "command = ['sh', '-c', 'cat; sleep 1000']\n"
        "spec = AgentSpec(type='a', prompt='pr\\u00f6mpt', command=command)\n"
        "agent = orch.deploy(task.id, spec)\n"
        "orch.report_progress(agent.id, 'working', message='m\\u00e4ssage')\n"
        "print(orch.terminate(agent.id).success)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(scene.root)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _package(), **(env or {})},
        cwd=scene.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _package():
    import orchestrator_core  # noqa: PLC0415 - where it is, and nothing else

    return str(Path(orchestrator_core.__file__).parents[1])


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"HOME": "/proc/1/no-such-home"},
        {"HOME": "/", "TERM": "no-such-terminal", "SHELL": "/no/such/shell"},
        {"TMUX": "/tmp/nowhere,1,0", "TMUX_TMPDIR": "/no/such/place"},
    ],
    ids=str,
)
def test_an_empty_or_odd_environment_makes_no_difference(env, scene):
    """No LANG, a locale of C, a read-only home: each life runs from start to end."""
    done = _in_another_process(scene, env)

    assert ("True\n", "") == (done.stdout, done.stderr)
    [log] = scene.root.glob("TASK-*/archive/*_stream.jsonl")
    assert "prömpt" == log.read_text(encoding="utf-8")
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_low_limit_of_descriptors_is_an_error_or_enough_and_blocks_no_server(scene):
    """Under a small RLIMIT_NOFILE the deployment succeeds or raises the library's error."""
    for limit in (64, 12, 10, 9):
        before = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, 4096))"
        done = _in_another_process(scene, before=before)
        assert done.returncode == 0 or _raised_library_error(done.stderr), (
            limit,
            done.stderr[-800:],
        )

        orch = scene.orchestrator(recover=True)
        orch.recover(force=True)
        agent = orch.deploy(orch.create_task("after").id, scene.spec())
        assert orch.terminate(agent.id).success
        assert [] == scene.world.leftovers() + scene.world.torn(), limit


def _raised_library_error(stderr):
    """Return whether a program ended with one of the library's errors."""
    return stderr.splitlines()[-1].startswith("orchestrator_core.exceptions.")


@pytest.mark.needs("root")  # The test mounts a file system.
def test_a_full_disk_is_an_error_and_loses_nothing(scene):
    """A small tmpfs fills up: the library's error; once there is space, nothing is left."""
    script = scene.program("full", f"#!/bin/sh\nexport PYTHONPATH={_package()}\n{_FULL_DISK}")
    done = subprocess.run(
        ["unshare", "-m", "sh", script, str(scene.root), sys.executable],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr), done
    result = json.loads(done.stdout)
    assert "No space left on device" in result["deploying"]["cause"], result
    assert [] == result["deploying"]["leaked"]
    assert {"success": True, "left": [], "torn": []} == result["after"]


_FULL_DISK = f"""\
mkdir -p "$1" && mount -t tmpfs -o size=300k,mode=700 none "$1" || exit 1
exec "$2" - "$1" <<'END'
import json, os, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from orchestrator_core import AgentSpec, Orchestrator, OrchestratorError
from support.world import World

root = sys.argv[1]
orch, world = Orchestrator(root), World(root, root)
spec = AgentSpec(type="a", prompt="p", command=["sleep", "1000"])
task = orch.create_task("tried").id
living = orch.deploy(task, spec)
ballast = open(f"{{root}}/ballast", "wb", buffering=0)
try:
    while True:
        ballast.write(bytes(4096))
except OSError:
    pass
try:
    orch.deploy(task, spec)
    outcome = {{"cause": "none", "leaked": []}}
except OrchestratorError as error:
    outcome = {{"cause": f"{{error.code}}: {{error}}", "leaked": error.leaked}}
full = orch.terminate(living.id)
os.unlink(ballast.name)
ballast.close()
orch.recover(force=True)
again = orch.terminate(orch.deploy(task, spec).id)
left = [one for one in world.leftovers() if "tmux.sock" not in one]
after = {{"success": again.success, "left": left, "torn": world.torn()}}
print(json.dumps({{"deploying": outcome, "full": full.success, "after": after}}))
os.kill(world.server(), 9)
END
"""


ROOTS = [
    "a file",
    "world-writable",
    pytest.param("read-only", marks=pytest.mark.needs("root")),
    pytest.param("another user's", marks=pytest.mark.needs("root")),
]


@pytest.mark.parametrize("kind", ROOTS)
def test_an_unusable_root_is_refused_when_it_is_opened(kind, scene):
    """The error names the cause; whatever exists stays as it is."""
    root = scene.root
    if kind == "a file":
        root.write_text("mine")
    else:
        root.mkdir()
    if kind == "world-writable":
        root.chmod(0o777)
    if kind == "another user's":
        os.chown(root, pwd.getpwnam("nobody").pw_uid, -1)
    if kind == "read-only":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", root], check=True)
    try:
        with pytest.raises(StorageError, match=str(root)) as raised:
            Orchestrator(root)
        assert raised.value.hint
    finally:
        if kind == "read-only":
            subprocess.run(["umount", root], check=True)


@pytest.mark.parametrize("name", ["registry", "sagas"])
def test_links_planted_inside_a_root_are_not_followed(name, scene):
    """A root's directory that is a symlink is refused, and its target stays empty."""
    scene.root.mkdir()
    (scene.root / name).symlink_to(scene.work)
    with pytest.raises(StorageError):
        Orchestrator(scene.root)
    assert [] == [*scene.work.iterdir()]


def test_a_link_planted_where_a_registry_is_written_is_not_followed(scene, orch, task):
    """The target is not read, written or replaced. The link is quarantined as damage is."""
    elsewhere = scene.place / "elsewhere"
    elsewhere.write_text("mine")
    [registry] = scene.root.glob("TASK-*/AGENT_REGISTRY.json")
    registry.rename(scene.place / "kept")
    registry.symlink_to(elsewhere)

    agent = orch.deploy(task, scene.spec())

    assert [agent.id] == [each.id for each in orch.agents()]
    assert "mine" == elsewhere.read_text()
    [quarantined] = registry.parent.glob(f"{registry.name}.damaged-*")
    assert elsewhere == quarantined.readlink()


@pytest.mark.needs("root")  # The test mounts a file system.
@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_is_recorded_on_a_full_disk(code, scene):
    """The agent fills the disk and exits. Its end is what the supervisor witnessed."""
    script = scene.program("full", f"#!/bin/sh\nexport PYTHONPATH={_package()}\n{_FILLED_DISK}")
    done = subprocess.run(
        ["unshare", "-m", "sh", script, str(scene.root), sys.executable, str(code)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr), done
    status = "completed" if code == 0 else "failed"
    assert {"status": status, "code": code, "success": True} == json.loads(done.stdout)


_FILLED_DISK = """\
mkdir -p "$1" && mount -t tmpfs -o size=400k,mode=700 none "$1" || exit 1
exec "$2" - "$1" "$3" <<'END'
import json, sys
from orchestrator_core import AgentSpec, Orchestrator

root, code = sys.argv[1:]
orch = Orchestrator(root)
fill = f"cat /dev/zero > {root}/ballast 2>/dev/null; echo full > /dev/null; exit {code}"
agent = orch.deploy(
    orch.create_task("tried").id,
    AgentSpec(type="a", prompt="p", command=["sh", "-c", f"sleep 0.3; {fill}"]),
    grace_s=0,
)
[supervisor] = {orch.history(agent.id).frame("spawn_tmux").load().supervisor.pid}
import contextlib, os, select
with contextlib.suppress(ProcessLookupError):
    select.select([os.pidfd_open(supervisor)], [], [], 30)
os.unlink(f"{root}/ballast")
orch.recover(force=True)
end = orch.wait(agent.id, timeout_s=20)
print(json.dumps({"status": end.status, "code": end.exit_code, "success": end.success}))
import subprocess
subprocess.run(["tmux", "-S", f"{root}/tmux.sock", "kill-server"], check=True)
END
"""
