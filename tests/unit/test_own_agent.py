"""An agent's way back to its orchestrator: the PATH to the command, and its own id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_core import AgentSpec
from orchestrator_core.model import command_path
from orchestrator_core.model.command_path import with_own_directory

TOP = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Install the command into a separate directory."""
    command = tmp_path / "orchestrator-core"
    command.touch(mode=0o755)
    monkeypatch.setattr(command_path, "_own_directory", lambda: str(tmp_path))
    return str(tmp_path)


def test_the_commands_directory_is_the_last_of_an_agents_path(own, monkeypatch):
    """No program of the user is hidden by a program that lies beside the command."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    spec = AgentSpec(type="a", prompt="p", command=["true"])

    assert f"/usr/bin:/bin:{own}" == spec.environment({})["PATH"]


@pytest.mark.parametrize("how", ["{own}:/bin", "/bin:{own}", "{own}"])
def test_a_path_that_has_the_directory_stays(own, how):
    assert how.format(own=own) == with_own_directory(how.format(own=own))


def test_an_agent_without_a_path_gets_the_systems(own):
    """An empty PATH with a directory behind it would hide all other programs."""
    assert f"{os.defpath}:{own}" == with_own_directory("")


def test_the_directory_holds_the_command_of_this_installation(tmp_path, monkeypatch):
    (tmp_path / "orchestrator-core").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert str(tmp_path) == command_path._own_directory.__wrapped__()


# --- the agent around a process ------------------------------------------------------------------

#: Starts itself again with an empty environment, and prints what it has adopted.
PROGRAM = """
import os, subprocess, sys
from orchestrator_core.deployment.own_agent import adopt_own_agent

if sys.argv[1] == "outer":
    subprocess.run([sys.executable, __file__, "middle", *sys.argv[2:]], check=True)
elif sys.argv[1] == "middle":
    clean = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    subprocess.run([sys.executable, __file__, "inner", *sys.argv[2:]], env=clean, check=True)
else:
    found = adopt_own_agent(sys.argv[2] if sys.argv[2:] else None)
    print(found, os.environ.get("ORCHESTRATOR_AGENT_ID"), os.environ.get("ORCHESTRATOR_ROOT"))
"""


@pytest.fixture
def adopted(tmp_path):
    """Run the program below a process with some variables; return what it prints."""

    def run(variables, *arguments):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        env = {"PYTHONPATH": str(TOP), **variables}
        ran = subprocess.run(
            [sys.executable, program, "outer", *arguments],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.split()

    return run


def agent_in(root):
    return {
        "ORCHESTRATOR_ROOT": str(root),
        "ORCHESTRATOR_TASK_ID": "TASK-1",
        "ORCHESTRATOR_AGENT_ID": "a-1",
        "ORCHESTRATOR_COOKIE": "cookie",
    }


def test_the_agent_is_that_of_the_nearest_ancestor(adopted, tmp_path):
    assert ["True", "a-1", str(tmp_path)] == adopted(agent_in(tmp_path))
    assert ["True", "a-1", str(tmp_path)] == adopted(agent_in(tmp_path), str(tmp_path))


def test_outside_an_agent_there_is_none(adopted):
    assert ["False", "None", "None"] == adopted({})


def test_without_a_cookie_it_is_no_agent(adopted, tmp_path):
    """A person may set the root and the id in a shell."""
    variables = agent_in(tmp_path)
    del variables["ORCHESTRATOR_COOKIE"]
    assert ["False", "None", "None"] == adopted(variables)


def test_an_agent_of_another_root_is_not_adopted(adopted, tmp_path):
    """The root was given on the command line."""
    (tmp_path / "other").mkdir()
    assert ["False", "None", "None"] == adopted(agent_in(tmp_path), str(tmp_path / "other"))
