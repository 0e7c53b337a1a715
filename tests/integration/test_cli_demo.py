"""The demonstration does what it shows, and its count of leftovers is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.scene import scene  # noqa: F401 - a fixture
from support.world import World

from orchestrator_core.cli import main
from orchestrator_core.cli.demo import leftovers

pytestmark = pytest.mark.tmux

TOP = Path(__file__).parents[2]
ENDS = {
    "surveyor": "completed",
    "historian": "completed",
    "reviewer": "failed",
    "watcher": "terminated",
}


def run_demo(place, *arguments):
    """Run the demonstration in an empty directory."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator_core", "demo", *arguments],
        cwd=place,
        env={**env, "PYTHONPATH": str(TOP), "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_six_sagas_end_as_they_should_and_nothing_is_left(short_tmp):
    """Another count of the remaining workspace finds nothing, either."""
    ran = run_demo(short_tmp, "--json", "--root", str(short_tmp / "demo"), "--keep")
    world = World(short_tmp, short_tmp / "demo" / "workspace")
    left = world.leftovers()
    world.end_everything()

    assert (0, "") == (ran.returncode, ran.stderr)
    assert [] == left
    data = json.loads(ran.stdout)
    assert 0 == data["left"]
    assert 4 <= min(data["held"][what] for what in ("tmux sessions", "prompt files"))
    ends = {agent.split("-")[0]: end for agent, end in data["agents"].items()}
    assert ENDS == {name: ends[name]["status"] for name in ENDS}
    assert [] == ends["late"]["leaked"]
    assert ends["late"]["resources_cleaned"]["tmux_session"]
    assert "recovery" == ends["orphan"]["why"]["reason"]


def test_the_demonstration_draws_each_saga_and_removes_its_files(short_tmp):
    """Nothing stays in the temporary directory, and no server on its socket."""
    ran = run_demo(short_tmp)

    assert 0 == ran.returncode, ran.stderr
    assert 6 == ran.stdout.count("write_prompt")
    assert "6 sagas" in ran.stdout
    assert "0 leftovers" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert [] == list(short_tmp.iterdir())


def test_the_exit_code_reports_leftovers(monkeypatch, capsys, short_tmp):
    real = leftovers.count
    monkeypatch.setattr(leftovers, "count", lambda root: {**real(root), "unfinished files": 1})
    monkeypatch.setenv("TMPDIR", str(short_tmp))
    monkeypatch.chdir(short_tmp)

    assert 3 == main(["demo"])
    assert "1 leftovers" in capsys.readouterr().out


def test_a_directory_in_use_is_refused(short_tmp):
    (short_tmp / "precious").touch()

    ran = run_demo(short_tmp, "--root", str(short_tmp))

    assert 2 == ran.returncode
    assert [short_tmp / "precious"] == list(short_tmp.iterdir())


def test_the_count_includes_each_kind_of_resource_that_an_agent_holds(scene):  # noqa: F811 - the fixture
    """Only unfinished files belong to no agent's life."""
    orch = scene.orchestrator()
    agent = orch.deploy(orch.create_task("t").id, scene.spec())

    held = leftovers.count(scene.root)
    orch.terminate(agent.id)

    cgroups = {"cgroups"} if not scene.world.cgroups() and not held["cgroups"] else set()
    assert {"unfinished files", *cgroups} == {what for what, number in held.items() if not number}
    assert 0 == sum(leftovers.count(scene.root).values())
