"""
The real programs of the presets, on a stand-in for their services: run by ``script/agents``.

Two more programs run without a preset, by a command of their own: Copilot CLI and opencode.

``ORCHESTRATOR_CORE_AGENTS`` is the directory into which npm has installed them. No request leaves
this machine: each program has a separate home, and a service on loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from agents.stand_in import ANSWER, Service

from orchestrator_core import AgentSpec, Orchestrator

PROGRAMS = Path(os.environ["ORCHESTRATOR_CORE_AGENTS"]) / "node_modules/.bin"
INSTALLED = [tool for tool in ("claude", "codex", "gemini") if (PROGRAMS / tool).exists()]
OTHERS = [other for other in ("copilot", "opencode") if (PROGRAMS / other).exists()]
WAIT_S = 300  #: A busy machine takes minutes to start eight of them.

#: What each program says when its service refuses the key, and for a session that is not there.
REFUSALS = {"claude": "Invalid API key", "codex": "Incorrect API key", "gemini": "not valid"}
UNKNOWN = {
    "claude": "No conversation found",
    "codex": "no rollout found",
    "gemini": "Error resuming session",
}
#: Processes that a tool leaves behind: without an environment, deaf to SIGTERM, out of the session.
DAEMONS = (
    "nohup setsid sleep {0}1 >/dev/null 2>&1 & "
    "(setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep {0}2; done' >/dev/null 2>&1 &) ; "
    "env -i setsid nohup sleep {0}3 >/dev/null 2>&1 & sleep 0.5; echo started"
)
_numbers = itertools.count(int(time.time()) % 100_000 * 100)

tool = pytest.mark.parametrize("tool", INSTALLED)
other = pytest.mark.parametrize("tool", OTHERS)


@pytest.fixture(scope="module")
def service():
    with Service() as running:
        yield running


@pytest.fixture
def place():
    directory = Path(tempfile.mkdtemp(prefix="oc-agents-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def orch(place, no_leaks):  # noqa: ARG001 - a check after the test
    """An orchestrator whose tmux server ends with the test."""
    orchestrator = Orchestrator(place / "root")
    yield orchestrator
    for agent in orchestrator.agents(status="active"):
        orchestrator.terminate(agent.id)
    with contextlib.suppress(Exception):
        _end_tmux(place)


def _end_tmux(place):
    """End the servers whose sockets lie below *place*."""
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if "tmux" in (process.info["name"] or "") and any(str(place) in word for word in words):
            process.kill()


@pytest.fixture
def home(place):
    """The home and the working directory of the programs."""
    for name in ("home/.gemini", "home/.codex", "work"):
        (place / name).mkdir(parents=True)
    (place / "home/.gemini/settings.json").write_text(
        '{"security": {"auth": {"selectedType": "gemini-api-key"}}, '
        '"privacy": {"usageStatisticsEnabled": false}, "general": {"disableAutoUpdate": true}}'
    )
    return place


def base_env(home):
    directories = (PROGRAMS, Path(sys.executable).parent, os.environ["PATH"])
    return {"HOME": str(home / "home"), "PATH": os.pathsep.join(map(str, directories))}


@pytest.fixture
def spec(home):
    """Return a spec of a tool that has *part* for its service; options are the preset's."""

    def made(tool, part, *, prompt="Why is /orders slow?", **how):
        env = {
            **base_env(home),
            "ANTHROPIC_BASE_URL": part.address,
            "ANTHROPIC_API_KEY": "sk-ant-stand-in",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CODEX_HOME": str(home / "home/.codex"),
            "STAND_IN_KEY": "sk-stand-in",
            "GEMINI_API_KEY": "stand-in",
            "GOOGLE_GEMINI_BASE_URL": part.address,
            **how.pop("env", {}),
        }
        if tool == "codex":
            (home / "home/.codex/config.toml").write_text(_CODEX_CONFIG.format(part.address))
        usual = {
            "claude": {"arguments": ["--allowedTools", "Bash"]},
            "codex": {"skip_git_repo_check": True, "sandbox": "danger-full-access"},
            "gemini": {"arguments": ["--skip-trust"], "approval_mode": "yolo"},
        }[tool]
        usual |= {"cwd": home / "work", "env": env, "deadline_s": WAIT_S, **how}
        return getattr(AgentSpec, tool)(prompt=prompt, **usual)

    return made


_CODEX_CONFIG = """\
model = "gpt-5"
model_provider = "stand-in"
check_for_update_on_startup = false
[model_providers.stand-in]
name = "stand-in"
base_url = "{0}/v1"
env_key = "STAND_IN_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[analytics]
enabled = false
"""


@pytest.fixture
def run(orch, spec):
    """Run a tool to its end; return the report and the result."""

    def done(tool, part, **how):
        agent = orch.deploy(orch.create_task("t").id, spec(tool, part, **how))
        end = orch.wait(agent.id, timeout_s=WAIT_S)
        assert (end.success, end.verified_no_zombies) == (True, True), end
        return end, orch.read_result(agent.id), orch.read_output(agent.id)[-3000:]

    return done


def alive(number):
    """Return the processes of :data:`DAEMONS` that are alive."""
    marks = {f"{number}{digit}" for digit in "123"}
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = set(" ".join(process.info["cmdline"] or []).replace(";", " ").split())
        found += [process.pid] if marks & words else []
    return found


def wait_until(condition, timeout_s=WAIT_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


# --- start and answer ---------------------------------------------------------------------------


@tool
def test_an_agent_answers(service, run, tool):
    """The prompt reaches the service as it is, and the answer comes back with its tokens."""
    part, prompt = service.part(), '-x "quoted" {task_id}\nzwei Zeilen: ü ✓'

    end, result, output = run(tool, part, prompt=prompt)

    assert ("completed", 0) == (end.status, end.exit_code), output
    assert (tool, False, ANSWER) == (result.format, result.is_error, result.result), output
    assert result.session_id, output
    assert (3120, 3000, 42) <= (
        result.usage.input_tokens,
        result.usage.cached_input_tokens,
        result.usage.output_tokens,
    )
    assert any(_holds(request, "zwei Zeilen: ü ✓") for request in part.requests)


def _holds(value, text):
    if isinstance(value, str):
        return text in value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds(part, text) for part in parts)


@tool
def test_eight_agents_that_start_at_once_all_get_their_prompt(service, orch, spec, tool):
    """On a busy machine as well."""
    part, task = service.part(), orch.create_task("t").id
    agents = [orch.deploy(task, spec(tool, part, prompt=f"number {n}.")) for n in range(8)]
    ends = [orch.wait(agent.id, timeout_s=WAIT_S) for agent in agents]

    assert ["completed"] * 8 == [end.status for end in ends], [end.reason for end in ends]
    missing = [
        n for n in range(8) if not any(_holds(sent, f"number {n}.") for sent in part.requests)
    ]
    assert [] == missing


@tool
def test_a_session_goes_on(service, run, tool):
    """The second agent's service sees what the first was asked and answered."""
    first, second = service.part(), service.part()
    _, result, _ = run(tool, first, prompt="first question")

    end, again, output = run(tool, second, prompt="second question", resume=result.session_id)

    assert ("completed", ANSWER) == (end.status, again.result), output
    for text in ("first question", "second question", "No index on orders"):
        assert any(_holds(request, text) for request in second.requests), text


# --- tools, and ends ----------------------------------------------------------------------------


@tool
def test_what_a_tool_leaves_behind_ends_with_the_agent(service, run, tool):
    number = next(_numbers)

    end, result, output = run(tool, service.part(command=DAEMONS.format(number)))

    assert ("completed", ANSWER) == (end.status, result.result), output
    assert "started" in output
    assert [] == alive(number)


@tool
def test_an_agent_that_is_killed_in_a_tool_leaves_nothing(service, orch, spec, home, tool):
    number = next(_numbers)
    command = f"{DAEMONS.format(number)}; touch {home}/reached; sleep {number}1"
    agent = orch.deploy(orch.create_task("t").id, spec(tool, service.part(command=command)))
    wait_until((home / "reached").exists)
    assert alive(number)
    living = orch.read_result(agent.id)

    end = orch.terminate(agent.id)

    assert (True, True, "terminated") == (end.success, end.verified_no_zombies, end.status)
    assert [] == alive(number)
    assert (None, None) == (living.is_error, living.result)


@tool
def test_an_agent_that_reports_its_end_keeps_its_answer(service, run, tool):
    """The report is a tool's call: the program calls its service once more, and then answers."""
    command = f"{sys.executable} -m orchestrator_core progress --status completed"

    end, result, output = run(tool, service.part(command=command))

    assert ("completed", "report", 0) == (end.status, end.by, end.exit_code), output
    assert ANSWER == result.result, output


#: The variables that tell a server which agent it is in: Codex passes on none by itself.
IDENTITY = [
    *("ORCHESTRATOR_ROOT", "ORCHESTRATOR_AGENT_ID"),
    *("ORCHESTRATOR_TASK_ID", "ORCHESTRATOR_COOKIE"),
]
#: How each program gets the tools of ``orchestrator-core mcp``, as docs/how-to/presets.md has it.
OWN_SERVER = {
    "claude": [
        *("--mcp-config", '{"mcpServers":{"orch":{"command":"orchestrator-core","args":["mcp"]}}}'),
        *("--allowedTools", "mcp__orch"),
    ],
    "codex": [
        *("-c", 'mcp_servers.orch.command="orchestrator-core"'),
        *("-c", 'mcp_servers.orch.args=["mcp"]'),
        *("-c", "mcp_servers.orch.startup_timeout_sec=120", "-c", "mcp_servers.orch.required=true"),
        *("-c", f"mcp_servers.orch.env_vars={json.dumps(IDENTITY)}"),
    ],
    "gemini": ["--skip-trust"],
}
OF_GEMINI = {"orch": {"command": "orchestrator-core", "args": ["mcp"], "trust": True}}


@tool
def test_an_agents_own_server_knows_its_agent(service, run, orch, home, tool):
    """Called without an id, it reports for the agent that the program is."""
    if tool == "gemini":
        settings = home / "home/.gemini/settings.json"
        known = json.loads(settings.read_text())
        settings.write_text(json.dumps({**known, "mcpServers": OF_GEMINI}))
    given = {"status": "working", "message": "half of it", "progress": 50}
    part = service.part(calls=("update_agent_progress", given))

    end, _, output = run(tool, part, arguments=OWN_SERVER[tool])

    assert "completed" == end.status, output
    reported = orch.read_progress(end.agent_id)
    assert "half of it" in [report.message for report in reported], output


# --- why a program does not start ---------------------------------------------------------------


@tool
def test_a_refused_key_is_the_reason_of_the_end(service, run, tool):
    end, result, output = run(tool, service.part(refuses=True))

    assert "failed" == end.status, output
    assert REFUSALS[tool] in end.reason, output
    assert (True, None) == (result.is_error, result.result)
    assert REFUSALS[tool] in result.error


@tool
def test_an_unknown_session_is_the_reason_of_the_end(service, run, tool):
    end, result, output = run(tool, service.part(), resume="00000000-0000-4000-8000-000000000000")

    assert "failed" == end.status, output
    assert UNKNOWN[tool] in end.reason, output
    assert UNKNOWN[tool] in result.error


@tool
def test_a_bad_flag_is_the_reason_of_the_end(service, run, tool):
    end, _, output = run(tool, service.part(), arguments=["--no-such-flag"])

    assert "failed" == end.status, output
    assert "such-flag" in end.reason, output  # Gemini CLI reads it as the negation of a flag.


@pytest.mark.skipif("codex" not in INSTALLED, reason="codex is not installed")
def test_codex_outside_of_a_repository_says_so(service, run):
    end, _, output = run("codex", service.part(), skip_git_repo_check=False)

    assert ("failed", True) == (end.status, "--skip-git-repo-check" in end.reason), output


@pytest.mark.skipif("gemini" not in INSTALLED, reason="gemini is not installed")
def test_gemini_in_an_untrusted_folder_says_so(service, run):
    end, _, output = run("gemini", service.part(), arguments=[])

    assert ("failed", True) == (end.status, "trust" in end.reason), output


@pytest.mark.skipif("claude" not in INSTALLED, reason="claude is not installed")
def test_claude_runs_as_root_in_what_is_said_to_be_a_sandbox(service, run):
    """Without the variable, root is refused before the start."""
    end, result, output = run(
        "claude",
        service.part(command="echo hello"),
        arguments=[],
        permission_mode="bypassPermissions",
        env={"IS_SANDBOX": "1"},
    )

    assert ("completed", ANSWER) == (end.status, result.result), output


# --- programs without a preset -----------------------------------------------------------------


@pytest.fixture
def plain(home):
    """Return a spec of a program without a preset: the command and the variables of its makers."""

    def made(tool, part):
        models = {"m": {"name": "m"}}
        options = {"baseURL": f"{part.address}/v1", "apiKey": "stand-in"}
        provider = {"npm": "@ai-sdk/anthropic", "options": options, "models": models}
        env = {
            **base_env(home),
            "COPILOT_OFFLINE": "true",
            "COPILOT_PROVIDER_BASE_URL": part.address,
            "COPILOT_PROVIDER_TYPE": "anthropic",
            "COPILOT_PROVIDER_API_KEY": "stand-in",
            "COPILOT_MODEL": "claude-sonnet-4",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_CONFIG_CONTENT": json.dumps(
                {"provider": {"stand-in": provider}, "permission": "allow", "autoupdate": False}
            ),
        }
        command = {
            "copilot": ["copilot", "--output-format", "json", "--allow-all-tools"],
            "opencode": ["opencode", "run", "--format", "json", "--model", "stand-in/m"],
        }[tool]
        about = {"prompt": "Why is /orders slow?", "deadline_s": WAIT_S, "env": env}
        return AgentSpec(type=tool, command=command, cwd=home / "work", **about)

    return made


@other
def test_a_program_without_a_preset_answers_and_leaves_nothing(service, orch, plain, tool):
    """It gets its prompt on standard input, and its tool leaves daemons behind."""
    number = next(_numbers)
    part = service.part(command=DAEMONS.format(number))
    agent = orch.deploy(orch.create_task("t").id, plain(tool, part))

    end = orch.wait(agent.id, timeout_s=WAIT_S)
    output = orch.read_output(agent.id)

    assert ("completed", True, True) == (end.status, end.success, end.verified_no_zombies), output
    assert json.dumps(ANSWER, ensure_ascii=False) in output
    assert any(_holds(request, "Why is /orders slow?") for request in part.requests)
    assert [] == alive(number)


@other
def test_a_program_without_a_preset_is_killed_in_its_tool(service, orch, plain, home, tool):
    number = next(_numbers)
    command = f"{DAEMONS.format(number)}; touch {home}/reached; sleep {number}1"
    agent = orch.deploy(orch.create_task("t").id, plain(tool, service.part(command=command)))
    wait_until((home / "reached").exists)

    end = orch.terminate(agent.id)

    assert (True, True, "terminated") == (end.success, end.verified_no_zombies, end.status)
    assert [] == alive(number)


@other
def test_a_program_without_a_preset_fails_by_its_exit_status(service, orch, plain, tool):
    agent = orch.deploy(orch.create_task("t").id, plain(tool, service.part(refuses=True)))

    end = orch.wait(agent.id, timeout_s=WAIT_S)

    assert ("failed", True) == (end.status, end.success), orch.read_output(agent.id)


# --- the shell, which is on every machine -------------------------------------------------------


def test_a_script_runs_and_ends_with_its_daemons(orch, home):
    number = next(_numbers)
    spec = AgentSpec.shell(prompt=DAEMONS.format(number), cwd=home / "work")
    agent = orch.deploy(orch.create_task("t").id, spec)

    end = orch.wait(agent.id, timeout_s=WAIT_S)

    assert ("completed", True) == (end.status, end.success)
    assert "started\n" == orch.read_output(agent.id)
    assert [] == alive(number)
