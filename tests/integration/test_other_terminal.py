"""A root's record names its terminal, and each process of the root uses that class."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.scene import scene  # noqa: F401 - a fixture

from orchestrator_core import InvalidInput, Orchestrator, TerminalUnavailable

pytestmark = pytest.mark.tmux

TOP = Path(__file__).parents[2]
NAME = "another_terminal:Recording"
MODULE = '''
import sys
from orchestrator_core.system.tmux import TmuxTerminal

class Recording(TmuxTerminal):
    """tmux, with a line for each call that starts or kills a session."""

    def start(self, name, **how):
        self.record("start")
        return super().start(name, **how)

    def kill(self, name, **how):
        self.record("kill")
        return super().kill(name, **how)

    def record(self, call):
        with open({calls!r}, "a") as file:
            print(call, "by", sys.argv[-2] if "unwind" in sys.argv else sys.argv[3:4], file=file)
'''


@pytest.fixture
def calls(scene, monkeypatch):  # noqa: F811 - the fixture
    """The file of the other terminal's calls."""
    path = scene.place / "calls"
    path.touch()
    (scene.place / "another_terminal.py").write_text(MODULE.format(calls=str(path)))
    own = scene.place / "config" / "orchestrator-core"
    own.mkdir(parents=True)
    (own / "orchestrator.toml").write_text(f'[steps]\npath = ["{scene.place}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.parent))
    before = list(sys.path)
    yield path
    sys.path[:] = before
    sys.modules.pop("another_terminal", None)


def command_line(scene, *arguments):  # noqa: F811 - the fixture
    return subprocess.run(
        [sys.executable, "-m", "orchestrator_core", "--root", str(scene.root), *arguments],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        cwd=scene.work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_deployment_and_the_unwinder_use_the_terminal_of_the_record(scene, calls):  # noqa: F811
    orch = Orchestrator(scene.root, terminal=NAME)
    task = orch.create_task("a task").id
    with scene.until_closed(scene.gate("gate")):
        agent = orch.deploy(task, scene.spec("sh", "-c", "exec 3>gate; exit 0")).id

    assert "completed" == orch.wait(agent, timeout_s=30).status
    deployed, *unwound = calls.read_text().splitlines()
    assert deployed.startswith("start by")
    assert ["kill by unwind"] == unwound
    assert [] == scene.world.leftovers()


def test_the_command_line_uses_the_terminal_of_the_record(scene, calls):  # noqa: F811
    orch = Orchestrator(scene.root, terminal=NAME)
    agent = orch.deploy(orch.create_task("a task").id, scene.spec()).id
    calls.write_text("")

    assert agent in command_line(scene, "ps").stdout
    assert 0 == command_line(scene, "kill", agent).returncode
    assert "kill by ['kill']\n" == calls.read_text()
    assert [] == scene.world.leftovers()


def test_the_first_use_of_a_root_fixes_its_terminal(scene, calls):  # noqa: F811
    Orchestrator(scene.root, terminal=NAME)

    assert NAME == json.loads((scene.root / "root.json").read_text())["terminal"]
    with pytest.raises(InvalidInput, match=f"uses the terminal {NAME!r}, not 'tmux'"):
        Orchestrator(scene.root, terminal="tmux")
    assert "" == calls.read_text()


def test_a_record_without_a_terminal_means_tmux(scene):  # noqa: F811
    orch = scene.orchestrator()
    record = json.loads((scene.root / "root.json").read_text())
    del record["terminal"]
    (scene.root / "root.json").write_text(json.dumps(record))

    again = scene.orchestrator()
    agent = again.deploy(orch.create_task("a task").id, scene.spec()).id
    assert again.terminate(agent).success


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("nowhere:Nothing", "No module named 'nowhere'"),
        ("orchestrator_core:Nothing", "has no attribute 'Nothing'"),
        ("screen", "No module named 'screen'"),
        ("os:sep", "no class with the methods"),
        ("subprocess:Popen", "no class with the methods"),
    ],
)
def test_a_terminal_that_cannot_be_used_is_refused_before_anything_is_taken(name, cause, scene):  # noqa: F811
    orch = Orchestrator(scene.root, terminal=name)
    task = orch.create_task("a task").id
    before = scene.world.snapshot()

    with pytest.raises(TerminalUnavailable, match=cause):
        orch.deploy(task, scene.spec())

    assert before == scene.world.snapshot()
    refused = command_line(
        scene, "deploy", "--task", task, "--type", "a", "--prompt", "x", "--", "true"
    )
    assert (1, True) == (refused.returncode, name in refused.stderr)
    assert before == scene.world.snapshot()
