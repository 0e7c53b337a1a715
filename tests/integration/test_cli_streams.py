"""The command line with standard streams that are closed or full, and with inherited habits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.scene import scene  # noqa: F401 - a fixture
from support.shell import Shell

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.system import interpreter

pytestmark = pytest.mark.tmux

NEW = ("deploy", "--new-task", "a task", "--type", "a", "--prompt", "do it", "--", "sleep", "1000")


@pytest.fixture
def shell(scene):  # noqa: F811 - the fixture
    return Shell(scene)


def closed(*fds):
    def close():
        for fd in fds:
            os.close(fd)

    return {"preexec_fn": close}


def run(shell, *arguments, **options):
    """Return the exit status of a command, and its standard error."""
    with shell.start(*arguments, **options) as process:
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr or ""


@pytest.mark.parametrize("fds", [(1,), (2,), (0, 1, 2)])
def test_a_deployment_works_with_closed_streams(shell, fds):
    """A daemon may have none. Its files must not get the numbers of the streams, either."""
    code, stderr = run(shell, *NEW, stdin=None, **closed(*fds))
    assert 0 == code, stderr
    [agent] = shell.json("ps")
    if fds == (1,):
        assert agent["id"] in stderr
        assert "standard output cannot take the result" in stderr
    assert [0] == [shell("kill", agent["id"])[0]]
    assert [] == shell.scene.world.leftovers()


@pytest.fixture
def full():
    with Path("/dev/full").open("w") as disk:
        yield disk


def test_the_exit_code_of_a_deployment_is_about_the_agent_not_about_the_output(shell, full):
    """It was 1, 'failed, and nothing is left of it', beside a living agent and a traceback."""
    code, stderr = run(shell, *NEW, stdout=full)
    [agent] = shell.json("ps")
    assert 0 == code
    assert ("No space left on device" in stderr, agent["id"] in stderr) == (True, True)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_command_that_only_prints_fails_without_its_output(shell, full, form):
    shell.deploy()
    code, stderr = run(shell, "ps", *form, stdout=full)
    assert 1 == code
    assert "Traceback" not in stderr


def test_an_error_that_cannot_be_printed_keeps_its_exit_code(shell, full):
    shell.deploy()
    assert 1 == run(shell, "show", "missing", stderr=full)[0]
    code, stderr = run(shell, "show", "missing", "--json", stdout=full)
    assert (1, True) == (code, "there is no agent 'missing'" in stderr)


def test_a_reason_in_another_encoding_ends_the_agent(shell):
    """A person in a Latin-1 terminal types it; the agent lived on, with a traceback."""
    agent = shell.deploy()
    [end] = shell.json("kill", agent, "--reason", os.fsdecode(b"caf\xe9"))
    assert ("caf�", True) == (end["reason"], end["success"])
    assert ["caf�"] == [each["end_reason"] for each in shell.json("ps", "--all")]


def test_a_program_that_was_started_by_one_that_ignores_sigchld_deploys(shell):
    options = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    code, stderr = run(shell, *NEW, **options)
    assert (0, "") == (code, stderr)
    assert [True] == [end["success"] for end in shell.json("kill", shell.json("ps")[0]["id"])]


# --- the library in such a program ----------------------------------------------------------------

_PROGRAM = """
import json, signal, sys
{before}
from orchestrator_core import *
orch = Orchestrator({root!r})
task = orch.create_task("a task")
agent = orch.deploy(task.id, AgentSpec(type="a", prompt="p", command=["sleep", "1000"]))
end = orch.terminate(agent.id)
json.dump([agent.status, end.success, end.errors], sys.stderr)
"""


@pytest.mark.parametrize(
    "before",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "sys.stdout = None",
        "sys.executable = '/bin/false'",
        "sys.executable = None",
    ],
)
def test_the_library_works_in_an_odd_program(shell, before):
    """One that ignores its children, has no stdout, or embeds Python."""
    program = _PROGRAM.format(before=before, root=str(shell.scene.root))
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=shell.env,
        cwd=shell.scene.work,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert 0 == ran.returncode, ran.stderr
    assert ["running", True, []] == json.loads(ran.stderr)


def test_without_any_python_nothing_is_taken(scene, monkeypatch):  # noqa: F811
    """It waited ten seconds for a supervisor that was another program."""
    orch = scene.orchestrator()
    task = orch.create_task("a task")
    monkeypatch.setattr(interpreter.sys, "executable", "/bin/false")
    monkeypatch.setattr(interpreter.sys, "prefix", str(scene.place))
    with pytest.raises(OrchestratorError, match="'/bin/false', which is no Python") as refused:
        orch.deploy(task.id, scene.spec())
    assert "set sys.executable" in refused.value.hint
    assert [] == orch.agents()
    assert [] == scene.world.leftovers()
