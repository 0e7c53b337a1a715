"""The command line for people, scripts and agents: real processes on real tmux."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys

import pytest
from support import past
from support.held_step import NAME, HeldStep
from support.scene import scene  # noqa: F401 - a fixture
from support.shell import SLEEP, Shell

pytestmark = pytest.mark.tmux


@pytest.fixture
def shell(scene):  # noqa: F811 - the fixture
    return Shell(scene)


# --- an agent's life -----------------------------------------------------------------------------


def test_an_agent_lives_and_ends_by_the_command_line_alone(shell):
    """The agent is deployed, listed, reported on, shown and killed. Nothing is left."""
    agent = shell.deploy("sh", "-c", "cat; exec sleep 1000", options=("--grace", "0.2"))

    assert [agent] == [each["id"] for each in shell.json("ps")]
    assert "working" == shell.json("progress", agent, "--status", "working")["line"]["status"]
    shown = shell.json("show", agent)
    assert ("committed", "do it") == (shown["saga"]["state"], shown["output"])
    assert [True] == [end["success"] for end in shell.json("kill", agent, "--reason", "enough")]

    assert [] == shell.scene.world.leftovers()
    assert [] == shell.json("ps")
    assert ["enough"] == [each["end_reason"] for each in shell.json("ps", "--all")]
    assert "do it" == shell.json("show", agent)["output"]


def test_the_default_output_is_text(shell):
    """Without --json: an id, a table, an agent's saga and its end."""
    agent = shell.deploy()

    assert agent in shell("ps")[1]
    assert "spawn_tmux" in shell("show", agent)[1]
    code, stdout, _ = shell("kill", agent)

    assert 0 == code
    assert f"{agent}: terminated (killed from the command line)" in stdout
    assert (0, "no agents\n", "") == shell("ps")


@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_the_root_may_stand_before_or_after_the_command_or_in_the_environment(shell, where, scene):  # noqa: F811 - the fixture
    agent = shell.deploy()
    elsewhere = str(scene.place / "elsewhere")
    arguments = ["ps", "--json"]
    if where != "environment":
        shell.env["ORCHESTRATOR_ROOT"] = elsewhere
        arguments[0 if where == "before" else 1 : 0] = ["--root", str(scene.root)]

    code, stdout, _ = shell(*arguments)

    assert (0, [agent]) == (code, [each["id"] for each in json.loads(stdout)])


def test_arguments_after_the_dashes_belong_to_the_agent(shell):
    """The command line takes none of the agent's options."""
    agent = shell.deploy("sh", "-c", 'echo "$@"; exec sleep 1000', "--", "--json", "--root", "--")

    shell("kill", agent)

    assert "--json --root --\n" == shell.json("show", agent)["output"]


def test_a_key_deploys_once(shell):
    assert shell.deploy(options=("--key", "k")) == shell.deploy(options=("--key", "k"))


def test_a_prompt_comes_from_a_file_byte_for_byte(shell):
    prompt = shell.scene.work / "prompt.txt"
    prompt.write_bytes("è stato\r\nfatto".encode())
    arguments = ("deploy", "--new-task", "t", "--type", "a", "--prompt-file", str(prompt))
    code, agent, _ = shell(*arguments, "--grace", "0.3", "--", "cat")

    assert 0 == code
    shell("recover")
    log = next(shell.scene.root.rglob(f"{agent.strip()}_stream.jsonl"))
    assert prompt.read_bytes() == log.read_bytes()


# --- inside an agent -----------------------------------------------------------------------------


def test_an_agent_reports_without_naming_itself_and_ends_itself(shell):
    """Inside, no id is needed; the supervisor completes the end that it reports."""
    program = f'"{sys.executable}" -m orchestrator_core progress'
    script = f"{program} --status working --progress 40 && {program} --status completed; sleep 1000"
    agent = shell.deploy("sh", "-c", script)

    end = shell.scene.orchestrator().wait(agent, timeout_s=30)

    assert ("completed", True) == (end.status, end.success)
    assert f"{agent}: ends as completed" in shell.json("show", agent)["output"]
    assert [] == shell.scene.world.leftovers()


def test_a_report_after_the_end_gets_the_report_of_that_end(shell):
    agent = shell.deploy()
    shell("kill", agent, "--reason", "enough")

    late = shell.json("progress", agent, "--status", "completed")

    assert ("terminated", "enough") == (late["end"]["status"], late["end"]["reason"])


@pytest.mark.parametrize("heavy", ["libtmux", "structlog", "portalocker", "psutil", "asyncio"])
def test_a_report_imports_nothing_that_it_does_not_need(shell, heavy):
    agent = shell.deploy()
    inside = {
        **shell.env,
        "ORCHESTRATOR_AGENT_ID": agent,
        "ORCHESTRATOR_TASK_ID": shell.json("ps")[0]["task_id"],
        "PYTHONPROFILEIMPORTTIME": "1",
    }

    code, _, imported = shell("progress", "--status", "working", env=inside)

    assert 0 == code
    assert "orchestrator_core.deployment.reports" in imported
    assert heavy not in imported


# --- exit codes ----------------------------------------------------------------------------------


def test_exit_code_1_means_that_it_failed_and_nothing_is_left(shell):
    """A deployment whose agent dies in its grace shows the agent's output, and leaves nothing."""
    arguments = ("deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--grace", "5")

    code, stdout, stderr = shell(*arguments, "--", "sh", "-c", "echo oops; exit 3")

    assert (1, "") == (code, stdout)
    assert "exit status 3" in stderr
    assert "wrote: oops" in stderr
    assert [] == shell.scene.world.leftovers()


@pytest.mark.parametrize("command", ["show", "kill", "recover"])
def test_exit_code_1_means_that_there_is_no_such_agent(shell, command):
    shell.scene.orchestrator()
    code, _, stderr = shell(command, "nobody-000000-000000")

    assert 1 == code
    assert "nobody-000000-000000" in stderr


def test_a_failed_kill_does_not_affect_the_other_agents(shell):
    agent = shell.deploy()

    code, stdout, stderr = shell("kill", "nobody-000000-000000", agent)

    assert 1 == code
    assert f"{agent}: terminated" in stdout
    assert "nobody-000000-000000" in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["deploy", "--type", "a", "--prompt", "p", *SLEEP],
        ["deploy", "--new-task", "t", "--type", "a", "--prompt", "p"],
        ["deploy", "--new-task", "t", "--type", "a.b", "--prompt", "p", *SLEEP],
        ["deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--", "no-such-program"],
        ["deploy", "--new-task", "t", "--type", "a", "--prompt-file", "missing", *SLEEP],
        ["deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--env", "X", *SLEEP],
        ["deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--cwd", "gone", *SLEEP],
        ["progress", "--status", "working"],
        ["progress", "a-000000-000000", "--status", "dancing"],
        ["show", "../../etc/passwd"],
        ["kill", "a;b"],
        ["recover", "--abandon", "spawn_tmux"],
    ],
    ids=" ".join,
)
def test_exit_code_2_means_that_the_arguments_are_invalid(shell, arguments):
    """The reason is on stderr, and nothing has begun: there is no task."""
    shell.scene.orchestrator()
    code, stdout, stderr = shell(*arguments)

    assert (2, "") == (code, stdout)
    assert stderr
    assert [] == shell.scene.world.files("TASK-*")


@pytest.fixture
def held(shell, monkeypatch):
    """An agent with a step whose undo fails as long as a file exists."""
    step = HeldStep(shell.scene, monkeypatch)
    orch = shell.scene.orchestrator()
    past.write_settings(shell.scene.root, step.settings)
    task = orch.create_task("a task").id
    step.agent = orch.deploy(task, shell.scene.spec(), extra_steps=[step.step]).id
    return step


def test_exit_code_3_means_that_something_is_left_until_a_recovery(shell, held):
    """A failed undo makes the agent STUCK; once the cause is gone, recover finishes it."""
    code, stdout, _ = shell("kill", held.agent)
    assert 3 == code
    assert f"{held.agent}: STUCK" in stdout
    assert NAME in stdout
    assert 3 == shell("recover", "--force")[0]

    held.in_the_way.unlink()
    assert 0 == shell("recover", "--force")[0]
    assert [] == shell.scene.world.leftovers()


def test_a_stuck_step_can_be_abandoned_with_a_reason(shell, held):
    shell("kill", held.agent)

    given_up = ("--abandon", NAME, "--reason", "that file is needed")
    assert 0 == shell("recover", held.agent, *given_up)[0]
    assert "closed" == shell.json("show", held.agent)["saga"]["state"]


def test_exit_code_4_means_that_another_process_holds_the_lock(shell):
    """The owner of the agent's lock is alive, so the agent stays with it."""
    agent = shell.deploy()
    with (shell.scene.root / "sagas" / f"{agent}.jsonl").open("ab") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)

        code, _, stderr = shell("kill", agent, "--timeout", "0.2")

    assert 4 == code
    assert agent in stderr
    assert "hint" in stderr
    assert 0 == shell("kill", agent)[0]


def test_an_error_is_json_with_the_option_json(shell):
    code, stdout, stderr = shell("show", "nobody-000000-000000", "--json")

    assert (1, "") == (code, stderr)
    assert (False, "not-found") == tuple(json.loads(stdout)[key] for key in ("success", "code"))


# --- interruptions and terminals -----------------------------------------------------------------


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_deployment_is_undone(shell, signum, expected):
    """Ctrl-C during the grace of a deployment ends its agent."""
    ready = shell.scene.place / "ready"
    os.mkfifo(ready)
    arguments = ("deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--grace", "60")
    script = f"echo here > {ready}; exec sleep 1000"
    with shell.start(*arguments, "--", "sh", "-c", script) as process:
        assert "here\n" == ready.read_text()
        process.send_signal(signum)
        stdout, _ = process.communicate(timeout=60)

    assert (expected, "") == (process.returncode, stdout)
    assert [] == shell.scene.world.leftovers()


def test_a_closed_pipe_causes_no_traceback(shell):
    shell.scene.orchestrator()
    reading, writing = os.pipe()
    os.close(reading)

    code, _, stderr = shell("ps", "--json", stdout=writing)
    os.close(writing)

    assert (141, "") == (code, stderr)


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_a_terminal_without_some_characters_fails_no_command(shell, locale):
    env = {**shell.env, "LC_ALL": locale, "PYTHONIOENCODING": "ascii"}
    agent = shell.deploy()
    shell("progress", agent, "--status", "working", "--message", "è fatto")

    assert (0, "") == shell("ps", env=env)[::2]


def test_an_agents_message_does_not_control_the_terminal(shell):
    """The message is printed without its control characters."""
    agent = shell.deploy("sh", "-c", r"printf 'a\033]0;owned\007b'; exec sleep 1000")
    shell("progress", agent, "--status", "working", "--message", "x\x1b[2Jy\nz")

    stdout = shell("ps")[1] + shell("show", agent)[1]

    assert {"\n"} == {char for char in stdout if not char.isprintable()}


def test_logs_go_to_stderr_and_only_with_the_option_verbose(shell):
    arguments = ("deploy", "--new-task", "t", "--type", "a", "--prompt", "p", "--verbose")

    code, stdout, logged = shell(*arguments, *SLEEP)

    assert 0 == code
    assert 1 == len(stdout.splitlines())
    assert "saga.committed" in logged
    assert f"saga_id={stdout.strip()}" in logged
