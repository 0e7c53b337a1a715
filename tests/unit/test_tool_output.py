"""
What the real programs write beside the documented streams, and what an agent's end says of it.

The lines have the shapes that Claude Code 2.1.197, Codex 0.171.0 and Gemini CLI 0.61.0 wrote.
"""

from __future__ import annotations

import json

import pytest

from orchestrator_core import AgentSpec, DeploymentError
from orchestrator_core.presets import log_reader
from orchestrator_core.presets.result import PermissionDenial, TokenUsage
from orchestrator_core.testing import Dies, Exits, Runs

ID = "5f0c"


def claude(kind, **fields):
    return {"type": kind, "session_id": ID, **fields}


INIT = claude("system", subtype="init", cwd="/shop")
NOTICE = claude("system", subtype="task_notification", task_id="b1", status="completed")


def said(text, **fields):
    message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return claude("assistant", message=message, parent_tool_use_id=None, **fields)


def ended(text, *, models=None, **fields):
    counts = {
        "input_tokens": 100,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 3000,
        "output_tokens": 42,
    }
    base = {"subtype": "success", "is_error": False, "result": text, "usage": counts}
    numbers = {"num_turns": 1, "duration_ms": 40, "total_cost_usd": 0.5}
    return claude("result", **{**base, **numbers, "modelUsage": models or {}, **fields})


def model(fresh, output):
    return {
        "inputTokens": fresh,
        "cacheReadInputTokens": 3000,
        "cacheCreationInputTokens": 20,
        "outputTokens": output,
    }


def lines(*parts):
    encoded = (p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts)
    return b"".join(part + b"\n" for part in encoded)


@pytest.fixture
def read(tmp_path):
    """Write a log, and read it."""

    def written(*parts, of="claude"):
        path = tmp_path / "log"
        path.write_bytes(lines(*parts))
        path.chmod(0o600)
        return log_reader.read_log(path, of)

    return written


# --- several results in one stream ------------------------------------------------------------


BACKGROUND = [
    INIT,
    said("It runs in the background."),
    ended("It runs.", models={"opus": model(200, 84)}, num_turns=2, duration_ms=446),
    NOTICE,
    INIT,
    said("It is done."),
    ended(
        "Done.",
        models={"opus": model(300, 126), "haiku": model(10, 5)},
        total_cost_usd=0.9,
        origin={"kind": "task-notification"},
    ),
]


def test_turns_and_times_of_several_results_are_summed_and_totals_are_the_newest(read):
    """Work in the background ends after a result: another one follows, with totals of the run."""
    result = read(*BACKGROUND).result

    assert ("Done.", False) == (result.result, result.is_error)
    assert (3, 486, 0.9) == (result.turns, result.duration_ms, result.cost_usd)
    assert (
        TokenUsage(input_tokens=6350, cached_input_tokens=6000, output_tokens=131) == result.usage
    )


def test_without_totals_by_model_the_usage_of_all_results_is_summed(read):
    """An older version writes none."""
    usage = read(INIT, ended("one"), INIT, ended("two")).result.usage

    assert TokenUsage(input_tokens=6240, cached_input_tokens=6000, output_tokens=84) == usage


@pytest.mark.parametrize(
    "newer",
    [INIT, said("More."), claude("user", message={}), claude("stream_event", event={})],
)
def test_a_result_before_newer_work_is_no_verdict(read, newer):
    """What has been spent by then still counts."""
    reading = read(*BACKGROUND[:3], NOTICE, newer)

    assert (None, None) == (reading.result.is_error, reading.result.result)
    assert (2, 0.5, True) == (reading.result.turns, reading.result.cost_usd, reading.lacks_result)


def test_a_notice_after_the_last_result_takes_nothing_back(read):
    """Claude Code reports the end of a background task that it ends itself."""
    assert "It runs." == read(*BACKGROUND[:3], NOTICE).result.result


def test_a_stream_that_is_one_array_has_its_result(read):
    """``--output-format json`` writes the whole stream as one line."""
    result = read(json.dumps(BACKGROUND).encode()).result

    assert ("Done.", 3, "It is done.") == (result.result, result.turns, result.last_message)


def test_denied_permissions_are_reported_once_each(read):
    denied = {"tool_name": "Bash", "tool_use_id": "t1", "tool_input": {"command": "touch a"}}
    other = {"tool_name": "Write", "tool_use_id": "t2", "tool_input": {}}
    odd = [5, {"tool_name": None}]

    result = read(
        INIT,
        ended("one", permission_denials=[denied, *odd]),
        INIT,
        ended("two", permission_denials=[denied, other]),
    ).result

    bash = PermissionDenial(tool="Bash", input={"command": "touch a"})
    assert {bash.tool, "Write"} == {denial.tool for denial in result.permission_denials}
    assert bash in result.permission_denials
    assert 2 == len(result.to_dict()["permission_denials"])


def test_the_text_of_an_error_is_no_result(read):
    """Claude Code puts it into the field of the answer."""
    result = read(INIT, ended("Invalid API key", is_error=True)).result

    assert (True, "Invalid API key", None) == (result.is_error, result.error, result.result)


# --- lines that are not quite JSON ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"done \\ud83d", "done \ufffd"),
        (b"\\uDE00 done", "\ufffd done"),
        (b"\\ud83d\\ude00 \\ud83d", "\U0001f600 \ufffd"),
        (b"cut \xf0\x9f", "cut \ufffd"),
        (b"a literal \\\\ud83d", "a literal \\ud83d"),
    ],
)
def test_half_a_character_costs_no_result(read, written, expected):
    """A program cuts texts between the two halves of an emoji."""
    line = json.dumps(ended("TEXT")).encode().replace(b"TEXT", written)
    result = read(INIT, line).result

    assert (False, expected) == (result.is_error, result.result)
    result.result.encode()


# --- calls that were repeated ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "parts", "retry"),
    [
        (
            "claude",
            [
                INIT,
                claude("system", subtype="api_retry", attempt=3, max_retries=10, error_status=529),
                claude("system", subtype="api_retry", attempt=4, max_retries=10, error_status=401),
            ],
            "attempt 4 of 10, 401",
        ),
        (
            "claude",
            [claude("system", subtype="api_retry", attempt=1, max_retries=2, error="refused")],
            "attempt 1 of 2, refused",
        ),
        (
            "codex",
            [
                {"type": "turn.started"},
                {
                    "type": "error",
                    "message": "Reconnecting... 2/5 (unexpected status 401 Unauthorized: no)",
                },
            ],
            "attempt 2 of 5, 401",
        ),
        (
            "gemini",
            [
                {"type": "init", "timestamp": "t", "session_id": "s"},
                b"Attempt 4 failed with status 429. Retrying with backoff... _ApiError: {",
                b"    at throwErrorIfNotOK (file:///chunk.js:1:2)",
                b"}",
            ],
            "attempt 4, 429",
        ),
    ],
)
def test_the_newest_repeated_call_is_reported(read, tool, parts, retry):
    """It is no error yet."""
    reading = read(*parts, of=tool)

    assert (retry, None, None) == (
        reading.result.retry,
        reading.result.error,
        reading.last_text,
    )


# --- why an agent failed --------------------------------------------------------------------------


@pytest.fixture
def run(orchestrator, fake_agent):
    """Run a stand-in for a tool to its end; return the report and the result."""

    def done(preset, script):
        fake_agent(preset, script)
        task = orchestrator.create_task("t")
        agent = orchestrator.deploy(task.id, getattr(AgentSpec, preset)(prompt="p"))
        end = orchestrator.wait(agent.id, timeout_s=60)
        record = orchestrator.agent(agent.id)
        assert (end.status, end.reason) == (record.status, record.end_reason)
        return end, orchestrator.read_result(agent.id)

    return done


STARTUP = b"Warning: 256-color support not detected.\nRipgrep is not available."
STACK = b"\nStack backtrace:\n   0: <unknown>\n   1: <unknown>"
REASONS = [
    ("claude", 1, lines(INIT, ended("Not logged in", is_error=True)), "Not logged in"),
    ("claude", 1, b"--dangerously-skip-permissions cannot be used as root\n", "cannot be used as"),
    ("claude", 1, b"\x1b[31merror: unknown option '--nosuch'\x1b[0m\n", "error: unknown option"),
    ("codex", 1, b"WARNING: proceeding, although\nNot inside a trusted directory\n", "Not inside"),
    ("codex", 1, b"Error: no rollout found for thread id 0" + STACK, "no rollout found"),
    (
        "codex",
        2,
        b"error: unexpected argument '-x' found\n\nUsage: codex\n\nFor more information, try -h\n",
        "unexpected argument",
    ),
    (
        "codex",
        1,
        lines({"type": "thread.started", "thread_id": "t"}, b"Error: Input exceeds 1048576"),
        "Input exceeds",
    ),
    ("gemini", 55, STARTUP + b"\nGemini CLI is not in a trusted directory", "trusted directory"),
    ("gemini", 42, STARTUP + b"\nNo input provided via stdin.", "No input provided"),
    (
        "gemini",
        41,
        b"You must specify GEMINI_API_KEY.\nUpdate your environment and try again\n",
        "You must specify GEMINI_API_KEY.",
    ),
    (
        "gemini",
        42,
        b'Error resuming session: invalid "0".\n  Searched in /home\n  Use --list-sessions\n',
        "Error resuming session",
    ),
    (
        "gemini",
        1,
        b"Unknown arguments: x\nUsage: gemini\n\nIt chats.\n\nOptions:\n  -h  Show help\n",
        "Unknown arguments: x",
    ),
    (
        "claude",
        1,
        b"Usage: claude [prompt]\n\nOptions:\n  -h  Show help\n\nUnknown argument: x\n",
        "Unknown argument: x",
    ),
    ("gemini", 42, STARTUP, "it got no prompt"),
]


@pytest.mark.parametrize(("preset", "code", "output", "why"), REASONS)
def test_why_a_program_did_not_start_is_its_end_reason(run, preset, code, output, why):
    """The parsed error, else the last line that is text and explains something."""
    end, result = run(preset, Exits(code, writes=output))

    assert "failed" == end.status
    assert end.reason.startswith(f"it ended with exit status {code}: ")
    assert why in end.reason
    assert why in result.error


@pytest.mark.parametrize(("preset", "code", "output", "why"), REASONS[::3])
def test_why_a_program_did_not_start_is_in_the_error_of_its_deployment(
    orchestrator, fake_agent, preset, code, output, why
):
    fake_agent(preset, Exits(code, writes=output))
    task = orchestrator.create_task("t")

    with pytest.raises(DeploymentError, match="died early") as caught:
        orchestrator.deploy(task.id, getattr(AgentSpec, preset)(prompt="p"), grace_s=1)

    assert why in str(caught.value)


def test_a_huge_error_is_shortened_in_the_error_of_the_deployment(orchestrator, fake_agent):
    """It goes into the journal as well."""
    fake_agent("claude", Exits(1, writes=lines(INIT, ended("x" * 1_000_000, is_error=True))))
    task = orchestrator.create_task("t")

    with pytest.raises(DeploymentError, match="shortened: it had 1000000") as caught:
        orchestrator.deploy(task.id, AgentSpec.claude(prompt="p"), grace_s=1)

    assert len(str(caught.value)) < 20_000


def test_exit_status_0_without_a_result_is_a_failure(run):
    """Claude Code exits with 0 after an interrupt."""
    end, result = run("claude", Exits(0, writes=lines(INIT, said("Looking."))))

    assert ("failed", "it ended without a result") == (end.status, end.reason)
    assert (None, "Looking.") == (result.is_error, result.last_message)


def test_exit_status_0_with_a_reported_error_is_a_failure(run):
    output = lines(INIT, ended(None, is_error=True, errors=["interrupted"]))

    end, result = run("claude", Exits(0, writes=output))

    assert ("failed", "interrupted") == (end.status, end.reason)
    assert (True, "interrupted") == (result.is_error, result.error)


@pytest.mark.parametrize(
    "output",
    [
        lines(INIT, said("Hm."), ended("Done.")),
        b"",  # It wrote to a file, or was asked for its version.
        b"2.1.197 (Claude Code)\n",
        lines(INIT, b'{"type": "result", "session_id": "s", "x": "' + b"x" * (5 << 20) + b'"}'),
    ],
)
def test_exit_status_0_is_a_success_unless_the_stream_contradicts(run, output):
    """An output without a stream, or with a line too long to be read, contradicts nothing."""
    end, _ = run("claude", Exits(0, writes=output))

    assert ("completed", "it finished") == (end.status, end.reason)


def test_an_agent_without_a_preset_ends_by_its_exit_status(orchestrator, fake_agent):
    """Its output may be anything."""
    program = fake_agent("mine", Exits(0, writes=lines(INIT)))
    task = orchestrator.create_task("t")
    agent = orchestrator.deploy(task.id, AgentSpec(type="a", prompt="p", command=[program]))

    assert "completed" == orchestrator.wait(agent.id, timeout_s=60).status


def test_a_signal_is_the_reason_whatever_the_output_says(run):
    end, _ = run("claude", Dies(9, writes=lines(INIT) + b"working\n"))

    assert ("failed", "it was killed by signal 9") == (end.status, end.reason)


def test_a_living_agent_has_no_verdict(orchestrator, fake_agent):
    """After its first result, Claude Code may go on for as long as its background work takes."""
    output = lines(*BACKGROUND[:3])
    fake_agent("claude", Runs(writes=output))
    agent = orchestrator.deploy(orchestrator.create_task("t").id, AgentSpec.claude(prompt="p"))
    living = orchestrator.read_result(agent.id)
    orchestrator.terminate(agent.id)
    dead = orchestrator.read_result(agent.id)

    assert (None, None, None) == (living.is_error, living.result, living.error)
    assert ("It runs in the background.", 0.5) == (living.last_message, living.cost_usd)
    assert (False, "It runs.") == (dead.is_error, dead.result)
