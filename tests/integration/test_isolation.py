"""The unwinder imports nothing that an agent has written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator_core
from orchestrator_core.system import import_path

pytestmark = pytest.mark.tmux

TOP = Path(orchestrator_core.__file__).parents[1]

DEPLOYER = """
import sys
from orchestrator_core import AgentSpec, Orchestrator
root, task, gate, script = sys.argv[1:]
spec = AgentSpec(type="a", prompt="p", command=["sh", "-c", script])
print(Orchestrator(root, recover=False).deploy(task, spec).id)
"""


@pytest.mark.parametrize(
    "name", ["msgspec.py", "logging.py", "structlog/__init__.py", "orchestrator_core/__init__.py"]
)
@pytest.mark.parametrize("place", ["script", "working directory", "PYTHONPATH"])
def test_a_module_in_a_directory_of_the_deployer_does_not_run_in_the_unwinder(scene, name, place):
    """The agent writes it after the deployment; the end is recorded all the same."""
    directory = scene.place / "project"
    directory.mkdir()
    (directory / "run.py").write_text(DEPLOYER)
    orch = scene.orchestrator()
    task = orch.create_task("tried").id
    planted = directory / name
    code = f"open('{scene.place}/ran', 'a').write(__name__); raise SystemExit(7)"
    script = f'read _ <{scene.gate("gate")}; mkdir -p {planted.parent}; echo "{code}" >{planted}'
    deploy = {
        "script": [str(directory / "run.py")],
        "working directory": ["-c", DEPLOYER],
        "PYTHONPATH": ["-c", DEPLOYER],
    }[place]
    there = directory if place == "working directory" else scene.work
    paths = [str(TOP), *([str(directory)] if place == "PYTHONPATH" else [])]
    agent = subprocess.check_output(
        [sys.executable, *deploy, str(scene.root), task, "", script],
        cwd=there,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        text=True,
        timeout=60,
    ).strip()

    scene.let_go("gate")
    end = orch.wait(agent, timeout_s=30)

    assert planted.exists()
    assert "completed" == end.status
    assert not (scene.place / "ran").exists()
    assert {} == scene.world.until_alone()


def test_a_library_that_is_only_beside_the_script_is_found_there(tmp_path):
    """A vendored library is the deployer's own; without it no end could be written."""
    (tmp_path / "libtmux").mkdir()
    (tmp_path / "libtmux" / "__init__.py").touch()
    place = tmp_path / "place"  # With the package alone, and without what it needs.
    place.mkdir()
    (place / "orchestrator_core").symlink_to(Path(orchestrator_core.__file__).parent)
    code = (
        "import sys; sys.path.append(sys.argv[1]); import site; site.getsitepackages = list; "
        "from orchestrator_core.system import import_path; print(import_path.own_places())"
    )
    (tmp_path / "run.py").write_text(code)
    asked = [sys.executable, "-I", "-S", str(tmp_path / "run.py"), str(place)]

    places = eval(subprocess.check_output(asked, text=True, cwd="/"))

    assert (str(place), str(tmp_path)) == places


def test_an_isolated_command_runs_where_the_package_is_not_installed(tmp_path):
    """Its own directories are named, after all others."""
    shown = subprocess.check_output(
        import_path.isolated_command("--version"), env={}, cwd=tmp_path, text=True
    )

    assert shown.strip()
