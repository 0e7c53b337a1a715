"""The command line as people type it: wrong roots, wrong ids, secrets, and interrupts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.scene import scene  # noqa: F401 - a fixture
from support.shell import Shell

pytestmark = pytest.mark.tmux

NEW = ("deploy", "--new-task", "a task", "--type", "a")


@pytest.fixture
def shell(scene):  # noqa: F811 - the fixture
    return Shell(scene)


# --- a wrong root ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "ps",
        "sweep",
        "recover",
        "repair",
        "stats",
        "gc",
        "show x",
        "kill x",
        "progress x --status x",
    ],
)
def test_a_command_that_needs_a_root_makes_none(shell, command):
    """A typo in its name was a new root, and "no agents"."""
    code, stdout, stderr = shell("--root", "agnets", *command.split())
    assert (1, "") == (code, stdout)
    assert f"there is no root at {shell.scene.work}/agnets (from the argument)" in stderr
    assert "--root" in stderr
    assert [] == list(shell.scene.work.iterdir())


def test_another_directory_is_no_root(shell):
    (shell.scene.work / "src").mkdir()
    code, _, stderr = shell("--root", "src", "ps")
    assert (1, True) == (code, "there is no root" in stderr)
    assert [] == list((shell.scene.work / "src").iterdir())


# --- wrong ids ------------------------------------------------------------------------------------


def test_an_id_of_the_wrong_kind_is_explained(shell):
    agent = shell.deploy()
    [record] = shell.json("ps")
    task = record["task_id"]
    for command in ("show", "kill"):
        code, _, stderr = shell(command, task)
        assert (1, True) == (code, f"{task} is a task, not an agent" in stderr)
        assert f"ps --all --task {task}" in stderr
    code, _, stderr = shell("ps", "--task", agent)
    assert (1, True) == (code, f"{agent} is an agent, not a task" in stderr)
    shell("kill", agent)


def test_the_beginning_of_an_id_shows_an_agent_and_ends_none(shell):
    agent = shell.deploy()
    assert agent == shell.json("show", agent[:-3])["agent"]["id"]
    code, _, stderr = shell("kill", agent[:-3])
    assert (1, True) == (code, f"did you mean: {agent}?" in stderr)
    assert [agent] == [each["id"] for each in shell.json("ps")]
    shell("kill", agent)


def test_a_second_end_is_called_one(shell):
    agent = shell.deploy()
    assert "had ended before" not in shell("kill", agent)[1]
    assert shell("kill", agent)[1].startswith(f"had ended before: {agent}: terminated")


def test_the_table_fits_a_terminal_and_has_ages(shell):
    shell.deploy()
    shell.env["COLUMNS"] = "80"
    shell("progress", shell.json("ps")[0]["id"], "--status", "working", "--message", "x" * 200)
    header, line = shell("ps")[1].splitlines()
    assert len(line) <= 80
    assert "AGE" in header.split()
    assert line.split()[3].endswith("s")
    shell("kill", line.split()[0])


# --- secrets --------------------------------------------------------------------------------------


def test_prompt_and_variables_can_be_kept_off_the_command_line(shell):
    """Other users read a command line with ps."""
    secrets = shell.scene.work / "secrets"
    secrets.write_text("# a comment\nTOKEN=hunter2\n\nOTHER=file\n")
    prompt = shell.scene.work / "prompt"
    prompt.write_text("a secret prompt")
    given = ("--prompt-file", str(prompt), "--env-file", str(secrets), "--env", "OTHER=option")
    program = 'cat; echo " $TOKEN $OTHER"; exec sleep 1000'
    code, agent, stderr = shell(*NEW, *given, "--", "sh", "-c", program)
    assert (0, "") == (code, stderr)
    log = next(shell.scene.root.glob("TASK-*/logs/*_stream.jsonl"))
    shell.scene.follow(log, until=b"a secret prompt hunter2 option\n")
    shell("kill", agent.strip())


@pytest.mark.parametrize("text", ["TOKEN hunter2\n", "=hunter2\n"])
def test_a_file_of_variables_that_cannot_be_used_is_refused_without_its_values(shell, text):
    (shell.scene.work / "secrets").write_text(text)
    given = ("--prompt", "do it", "--env-file", "secrets", "--", "sleep", "1")
    code, _, stderr = shell(*NEW, *given)
    assert 2 == code
    assert "hunter2" not in stderr
    assert not shell.scene.root.exists()


# --- an interrupt of many ends --------------------------------------------------------------------


def test_each_end_is_printed_when_it_is_done_and_an_interrupt_names_the_rest(shell):
    """Nothing was printed until all were ended, and nothing at all after Ctrl-C."""
    agents = [shell.deploy() for _ in range(2)]
    stubborn = shell.deploy("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    never = shell.deploy()
    with shell.start("kill", *agents, stubborn, never, bufsize=1) as process:
        lines = [process.stdout.readline() for _ in agents]
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=60)
    assert agents == [line.partition(":")[0] for line in lines]
    assert (130, "") == (process.returncode, rest)
    assert f"interrupted; not ended: {stubborn} {never}" in stderr
    assert "Traceback" not in stderr
    shell("kill", stubborn, never)


def test_an_interrupt_at_the_start_leaves_no_traceback(shell):
    shell.deploy()
    fifo = shell.scene.work / "fifo"
    os.mkfifo(fifo)
    # The interpreter imports this instead of the library's own dependency, and waits in it.
    (shell.scene.work / "msgspec.py").write_text(f"open({str(fifo)!r}).read()\n")
    shell.env["PYTHONPATH"] = f"{shell.scene.work}{os.pathsep}{shell.env['PYTHONPATH']}"
    with shell.start("ps") as process, Path(fifo).open("w"):
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert 130 == process.returncode, stderr
    assert "Traceback" not in stderr
