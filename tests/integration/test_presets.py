"""Presets on real tmux: a stand-in for the tool on the PATH, and the result from its log."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.scene import SLEEP, scene  # noqa: F401 - a fixture

from orchestrator_core import AgentResult, AgentSpec, GracePeriods
from orchestrator_core.exceptions import InvalidInput, StorageError

pytestmark = pytest.mark.tmux

TOP = Path(__file__).parents[2]

#: A program that records its input, and writes a Claude stream (see tests/unit/test_streams.py).
CLAUDE = """#!/bin/sh
echo "warming up" >&2
printf '%s\\n' "$@" > arguments
cat > prompt
echo '{"type":"system","subtype":"init","session_id":"s-1","model":"m"}'
echo '{"type":"assistant","session_id":"s-1","parent_tool_use_id":null,
'  # a line that is torn
echo '{"type":"assistant","session_id":"s-1","parent_tool_use_id":null,"message":{"content":[{"type":"text","text":"Looking."}]}}'
echo ready > reached
[ ! -p gate ] || read _ < gate
echo '{"type":"result","subtype":"success","session_id":"s-1","is_error":false,"result":"Found it.","total_cost_usd":0.25,"num_turns":2,"duration_ms":1500,"usage":{"input_tokens":5,"output_tokens":7}}'
"""  # noqa: E501 - a stream's lines are as long as they are

DONE = AgentResult(
    format="claude",
    is_error=False,
    result="Found it.",
    last_message="Looking.",
    session_id="s-1",
    cost_usd=0.25,
    turns=2,
    duration_ms=1500,
)


def bare(result):
    """Leave out the tokens, which the unit tests cover."""
    return AgentResult(**{**result.to_dict(), "usage": None})


@pytest.fixture
def tools(scene):  # noqa: F811 - the fixture
    """A directory of stand-ins, first on the agents' PATH."""
    place = scene.place / "tools"
    place.mkdir()
    scene.program("tools/claude", CLAUDE)
    return {"PATH": f"{place}:{os.environ['PATH']}"}


@pytest.fixture
def orch(scene):  # noqa: F811 - the fixture
    return scene.orchestrator()


@pytest.fixture
def deploy(scene, orch, tools):  # noqa: F811 - the fixture
    def deployed(preset="claude", **how):
        how = {"prompt": "find it", "env": tools, "cwd": scene.work, **how}
        return orch.deploy(orch.create_task("t").id, getattr(AgentSpec, preset)(**how))

    return deployed


def test_a_preset_gets_its_arguments_and_its_prompt(scene, orch, deploy):  # noqa: F811 - the fixture
    """The prompt is on standard input, so no list of processes shows it."""
    agent = deploy(model="opus", permission_mode="plan", arguments=["--add-dir", "a b"])

    assert orch.wait(agent.id, timeout_s=20).success
    assert "find it" == (scene.work / "prompt").read_text()
    assert [
        *("-p", "--output-format", "stream-json", "--verbose"),
        *("--model", "opus", "--permission-mode", "plan", "--add-dir", "a b"),
    ] == (scene.work / "arguments").read_text().splitlines()


def test_a_result_is_read_wherever_the_log_is(scene, orch, deploy):  # noqa: F811 - the fixture
    """A live agent has a last message; an archived or compressed log has the whole result."""
    gate, reached = scene.gate("gate"), scene.gate("reached")
    agent = deploy()
    Path(reached).read_text()  # The agent has written that much, and waits.
    living = orch.read_result(agent.id)
    Path(gate).write_text("go\n")
    end = orch.wait(agent.id, timeout_s=20)
    archived = orch.read_result(agent.id)
    [path] = [Path(name) for name in end.archived_files if name.endswith("_stream.jsonl")]
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.with_name(f"{path.name}.gz").chmod(0o600)
    path.unlink()
    packed = orch.read_result(agent.id)

    assert ("Looking.", None, None) == (living.last_message, living.result, living.is_error)
    assert DONE == bare(archived)
    assert archived == packed


def test_a_damaged_archive_is_an_error(orch, deploy):
    """Damage is not read as a missing result."""
    agent = deploy()
    end = orch.wait(agent.id, timeout_s=20)
    [path] = [Path(name) for name in end.archived_files if name.endswith("_stream.jsonl")]
    path.rename(path.with_name(f"{path.name}.gz"))

    with pytest.raises(StorageError, match="damaged"):
        orch.read_result(agent.id)


def test_a_log_that_was_deleted_has_no_result(orch, deploy):
    """An agent that writes no known stream has none either."""
    agent = deploy("shell", prompt="echo hello; exec sleep 1000")

    assert AgentResult() == orch.read_result(agent.id)
    orch.terminate(agent.id, keep_logs=False)
    assert AgentResult() == orch.read_result(agent.id)


def test_a_shells_prompt_is_its_script(scene, orch, deploy):  # noqa: F811 - the fixture
    """The script has arguments and an empty input. Its tool is recognized by the tool's lines."""
    script = 'cat > input; printf "%s\\n" "$@" > given; claude -p < /dev/null'

    agent = deploy("shell", prompt=script, arguments=["one", "two words"])

    assert orch.wait(agent.id, timeout_s=20).success
    assert "" == (scene.work / "input").read_text()
    assert "one\ntwo words\n" == (scene.work / "given").read_text()
    assert DONE == bare(orch.read_result(agent.id))


@pytest.mark.parametrize("preset", ["claude", "codex", "gemini"])
def test_a_preset_without_its_program_takes_nothing(scene, orch, preset):  # noqa: F811 - the fixture
    """No session, file or saga exists. The hint has the command that installs the program."""
    empty = scene.place / "empty"
    empty.mkdir()
    task = orch.create_task("t")
    spec = getattr(AgentSpec, preset)(prompt="x", cwd=scene.work, env={"PATH": str(empty)})
    before = set(scene.root.rglob("*"))

    with pytest.raises(InvalidInput, match=f"'{preset}' is not there") as refused:
        orch.deploy(task.id, spec)

    assert before == set(scene.root.rglob("*"))
    assert "npm install -g" in refused.value.hint


def test_a_users_wrapper_names_the_preset_of_its_stream(scene, orch, tools):  # noqa: F811 - the fixture
    """The record keeps it."""
    spec = scene.spec("sh", "-c", "claude | cat", env=tools, preset="claude")
    agent = orch.deploy(orch.create_task("t").id, spec)

    orch.wait(agent.id, timeout_s=20)

    assert "claude" == orch.agent(agent.id).record["preset"]
    assert DONE == bare(orch.read_result(agent.id))


#: It reports its end, as Claude Code does through a tool, and writes its result two seconds later.
LAST_CALL = f"""#!/bin/sh
echo '{{"type":"system","subtype":"init","session_id":"s-1"}}'
{sys.executable} -m orchestrator_core progress --status completed
sleep 2
echo '{{"type":"result","subtype":"success","session_id":"s-1","is_error":false,"result":"Done."}}'
"""


def test_an_agent_that_reports_its_end_still_writes_its_answer(scene, tools):  # noqa: F811 - the fixture
    """After the report, the tool calls its service once more; its answer comes last."""
    scene.program("tools/claude", LAST_CALL)
    orch = scene.orchestrator(patience=GracePeriods())

    spec = AgentSpec.claude(prompt="p", cwd=scene.work, env=tools)
    agent = orch.deploy(orch.create_task("t").id, spec)
    end = orch.wait(agent.id, timeout_s=20)

    assert ("completed", 0) == (end.status, end.exit_code)
    assert "Done." == orch.read_result(agent.id).result


def test_an_agent_that_lingers_is_ended_at_its_deadline(scene, orch, deploy):  # noqa: F811 - the fixture
    scene.program("tools/claude", LAST_CALL.replace("sleep 2", "exec sleep 1000"))

    agent = deploy(deadline_s=3, linger_s=1000)
    end = orch.wait(agent.id, timeout_s=20)

    assert "completed" == end.status


# --- on the command line -----------------------------------------------------------------------


@pytest.fixture
def shell(scene, tools):  # noqa: F811 - the fixture
    def run(*arguments):
        env = {name: value for name, value in os.environ.items() if "ORCHESTRATOR" not in name}
        env |= {"ORCHESTRATOR_ROOT": str(scene.root), "PYTHONPATH": str(TOP), **tools}
        return subprocess.run(
            [sys.executable, "-m", "orchestrator_core", *arguments],
            env=env,
            cwd=scene.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return run


def test_the_command_line_deploys_a_preset_and_shows_its_result(orch, shell):
    about = ("--new-task", "t", "--type", "finder", "--prompt", "find it")
    agent = shell("deploy", *about, "--preset", "claude", "--model", "opus").strip()
    orch.wait(agent, timeout_s=20)

    assert DONE == bare(AgentResult(**json.loads(shell("show", agent, "--json"))["result"]))
    shown = shell("show", agent)
    assert "success, from claude, $0.2500, 2 turns, 1.5 s, 5+7 tokens, session s-1" in shown
    assert "Found it." in shown


def test_an_agent_without_a_result_shows_none(shell):
    about = ("--new-task", "t", "--type", "a", "--prompt", "x")
    agent = shell("deploy", *about, "--", *SLEEP).strip()

    assert json.loads(shell("show", agent, "--json"))["result"] is None
    assert "  result " not in shell("show", agent)
