"""The result in an agent's log, on streams as their makers document them."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from orchestrator_core.exceptions import StorageError
from orchestrator_core.presets import log_reader
from orchestrator_core.presets.log_reader import read_stream
from orchestrator_core.presets.result import AgentResult, TokenUsage

# Claude Code. The shapes are those of SDKMessage in the Agent SDK's reference
# (code.claude.com/docs/en/agent-sdk/typescript, October 2026) and of its Python parser
# (anthropics/claude-agent-sdk-python 008e361d, _internal/message_parser.py).
CLAUDE_ID = "0e639165-79b1-4bd4-bb0f-4cb4c15115d4"
CLAUDE_INIT = {
    "type": "system",
    "subtype": "init",
    "session_id": CLAUDE_ID,
    "cwd": "/work",
    "tools": ["Bash", "Read"],
    "mcp_servers": [],
    "model": "claude-sonnet-4-5",
    "permissionMode": "default",
    "apiKeySource": "none",
}


def claude_message(*content, parent=None):
    return {
        "type": "assistant",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": list(content),
            "usage": {"input_tokens": 3, "output_tokens": 6},
        },
        "parent_tool_use_id": parent,
        "session_id": CLAUDE_ID,
    }


def text_block(text):
    return {"type": "text", "text": text}


CLAUDE_CALL = claude_message(
    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
)
CLAUDE_TOOL = {
    "type": "user",
    "message": {
        "role": "user",
        "content": [{"tool_use_id": "toolu_1", "type": "tool_result", "content": "README.md"}],
    },
    "parent_tool_use_id": None,
    "session_id": CLAUDE_ID,
}
CLAUDE_RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "duration_ms": 1998,
    "duration_api_ms": 1976,
    "num_turns": 3,
    "result": "There is a README.",
    "stop_reason": "end_turn",
    "session_id": CLAUDE_ID,
    "total_cost_usd": 0.0079825,
    "usage": {
        "input_tokens": 3,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 15635,
        "output_tokens": 6,
    },
    "permission_denials": [],
}
CLAUDE = [CLAUDE_INIT, CLAUDE_CALL, CLAUDE_TOOL, claude_message(text_block("There is a README."))]

# Codex: the sample of docs/exec.md in openai/codex, with a shorter output.
CODEX = [
    {"type": "thread.started", "thread_id": "0199a213-81c0-7800-8aa1-bbab2a035a53"},
    {"type": "turn.started"},
    {
        "type": "item.completed",
        "item": {"id": "item_0", "type": "reasoning", "text": "**Searching for README files**"},
    },
    {
        "type": "item.started",
        "item": {
            "id": "item_1",
            "type": "command_execution",
            "command": "bash -lc ls",
            "aggregated_output": "",
            "status": "in_progress",
        },
    },
    {
        "type": "item.completed",
        "item": {
            "id": "item_1",
            "type": "command_execution",
            "command": "bash -lc ls",
            "aggregated_output": "2025-09-11\nAGENTS.md\nREADME.md\n",
            "exit_code": 0,
            "status": "completed",
        },
    },
    {
        "type": "item.completed",
        "item": {
            "id": "item_3",
            "type": "agent_message",
            "text": "Yep — there\u2019s a `README.md` in the repository root.",
        },
    },
    {
        "type": "turn.completed",
        "usage": {"input_tokens": 24763, "cached_input_tokens": 24448, "output_tokens": 122},
    },
]
CODEX_MESSAGE = CODEX[5]["item"]["text"]
# As TurnFailedEvent and ThreadErrorEvent of codex-rs/exec/src/exec_events.rs (08a1f30c).
CODEX_FAILED = {"type": "turn.failed", "error": {"message": "stream disconnected"}}
CODEX_ERROR = {"type": "error", "message": "stream disconnected"}

# Gemini CLI: JsonStreamEvent of packages/core/src/output/types.ts in google-gemini/gemini-cli
# (04fbf507), in the order of docs/cli/headless.md.
T = {"timestamp": "2026-02-13T19:00:10.738Z"}


def gemini_message(text, **more):
    return {"type": "message", **T, "role": "assistant", "content": text, **more}


GEMINI = [
    {"type": "init", **T, "session_id": "abc123", "model": "gemini-2.5-pro"},
    {"type": "message", **T, "role": "user", "content": "List the files"},
    gemini_message("I shall ", delta=True),
    gemini_message("look.", delta=True),
    {"type": "tool_use", **T, "tool_name": "Bash", "tool_id": "bash-1", "parameters": {}},
    {"type": "tool_result", **T, "tool_id": "bash-1", "status": "success", "output": "a.txt"},
    gemini_message("Here is ", delta=True),
    {"type": "error", **T, "severity": "warning", "message": "Loop detected"},
    gemini_message("a.txt.", delta=True),
    {
        "type": "result",
        **T,
        "status": "success",
        "stats": {
            "total_tokens": 12359,
            "input_tokens": 11744,
            "output_tokens": 47,
            "cached": 20,
            "input": 11724,
            "duration_ms": 5322,
            "tool_calls": 1,
        },
    },
]
GEMINI_FAILED = {
    "type": "result",
    **T,
    "status": "error",
    "error": {"type": "FatalTurnLimitedError", "message": "Reached max session turns"},
}

STREAMS = {"claude": [*CLAUDE, CLAUDE_RESULT], "codex": CODEX, "gemini": GEMINI}
MESSAGES = {"claude": "There is a README.", "codex": CODEX_MESSAGE, "gemini": "Here is a.txt."}


def lines(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.fixture
def read(tmp_path):
    """Write a log, and read its result."""

    def written(*parts, of=None):
        path = tmp_path / "log.jsonl"
        path.write_bytes(
            b"".join(part if isinstance(part, bytes) else lines(part) for part in parts)
        )
        path.chmod(0o600)
        return read_stream(path, of)

    return written


# --- results ----------------------------------------------------------------------------


def test_claudes_result_has_every_field(read):
    """Cached tokens count as input, as with the other tools."""
    assert AgentResult(
        format="claude",
        is_error=False,
        result="There is a README.",
        last_message="There is a README.",
        session_id=CLAUDE_ID,
        cost_usd=0.0079825,
        usage=TokenUsage(input_tokens=15738, cached_input_tokens=15635, output_tokens=6),
        turns=3,
        duration_ms=1998,
    ) == read(*CLAUDE, CLAUDE_RESULT)


def test_codexs_result_has_no_cost_and_no_duration(read):
    """A field that the stream does not contain is None."""
    assert AgentResult(
        format="codex",
        is_error=False,
        result=CODEX_MESSAGE,
        last_message=CODEX_MESSAGE,
        session_id="0199a213-81c0-7800-8aa1-bbab2a035a53",
        usage=TokenUsage(input_tokens=24763, cached_input_tokens=24448, output_tokens=122),
    ) == read(*CODEX)


def test_geminis_last_message_is_assembled_from_its_pieces(read):
    """No earlier message is part of it."""
    assert AgentResult(
        format="gemini",
        is_error=False,
        result="Here is a.txt.",
        last_message="Here is a.txt.",
        session_id="abc123",
        usage=TokenUsage(input_tokens=11744, cached_input_tokens=20, output_tokens=47),
        duration_ms=5322,
    ) == read(*GEMINI)


def test_a_gemini_message_without_delta_is_complete(read):
    assert "two" == read(*GEMINI[:2], gemini_message("one"), gemini_message("two")).last_message


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"subtype": "error_max_turns"}, "error_max_turns"),
        ({"subtype": "error_during_execution", "errors": ["one", "two"]}, "one; two"),
        ({"subtype": "success", "result": "API Error: 500"}, "API Error: 500"),
    ],
)
def test_claudes_error_is_its_errors_or_its_result_or_its_subtype(read, result, error):
    """The last message is still in the result."""
    failed = {k: v for k, v in CLAUDE_RESULT.items() if k != "result"} | {"is_error": True}

    result = read(*CLAUDE, failed | result)

    assert (True, error) == (result.is_error, result.error)
    assert ("There is a README.", 0.0079825) == (result.last_message, result.cost_usd)


def test_a_failed_codex_turn_has_no_result(read):
    """The turn's earlier message is the last message, and no result."""
    result = read(*CODEX[:-1], CODEX_ERROR, CODEX_FAILED)

    assert (True, "stream disconnected") == (result.is_error, result.error)
    assert (None, CODEX_MESSAGE) == (result.result, result.last_message)


def test_a_codex_error_counts_only_as_the_last_event(read):
    """Codex has recovered from an error that has an event after it."""
    assert read(*CODEX[:4], CODEX_ERROR).is_error is True
    assert read(*CODEX[:4], CODEX_ERROR, CODEX[4]).is_error is None
    assert read(*CODEX[:4], CODEX_ERROR, *CODEX[4:]).error is None


def test_the_error_of_a_failed_gemini_is_in_its_result_why(read):
    result = read(*GEMINI[:-1], GEMINI_FAILED)

    assert (True, "Reached max session turns", None) == (
        result.is_error,
        result.error,
        result.result,
    )
    assert "Here is a.txt." == result.last_message


# --- streams without an end ---------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_without_an_end_has_a_last_message(read, name):
    """The result has a session, but neither a text nor an error."""
    result = read(*STREAMS[name][:-1])

    assert (name, None, None) == (result.format, result.is_error, result.result)
    assert MESSAGES[name] == result.last_message
    assert result.session_id is not None


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_skipped(read, name, cut):
    """The line's writer is still writing, or has died."""
    last = lines(STREAMS[name][-1])[:-cut]
    whole = read(*STREAMS[name]) if cut == 1 else read(*STREAMS[name][:-1])

    assert whole == read(*STREAMS[name][:-1], last)


def test_the_result_of_an_older_turn_is_not_the_last_turns(read):
    """A second session in the same log has no end."""
    result = read(*CLAUDE, CLAUDE_RESULT, CLAUDE_INIT, CLAUDE_CALL)
    assert (None, None) == (result.is_error, result.result)

    result = read(*CODEX, {"type": "thread.started", "thread_id": "second"}, CODEX[1])
    assert ("second", None, None) == (result.session_id, result.is_error, result.last_message)

    result = read(*GEMINI, {**GEMINI[0], "session_id": "second"})
    assert ("second", None, None) == (result.session_id, result.is_error, result.last_message)


def test_a_subagents_message_is_not_the_agents(read):
    """A subagent's message has a parent."""
    result = read(
        *CLAUDE, claude_message(text_block("of another"), parent="toolu_2"), CLAUDE_RESULT
    )
    assert "There is a README." == result.last_message


# --- foreign lines -----------------------------------------------------------------------------

FOREIGN = [
    b"plain words on standard error\n",
    b"\n\r\n",
    b"[1, 2]\n",
    b'{"type": 5}\n',
    b'{"type": "result"}\n',
    b'{"type": "assistant", "session_id": null, "message": "?"}\n',
    b'{"type": "turn.completed", "timestamp": 1}\n',
    b'{"type": "result", "timestamp": "t", "sessionId": "x"}\n',
    b'{"type": "\xff\xfe"}\n',
    b'{"type": "message", "deep": ' + b"[" * 100_000 + b"\n",
    b'{"type": "message", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    b"\0" * 1000 + b"\n",
]


@pytest.mark.parametrize("name", STREAMS)
def test_foreign_lines_change_nothing(read, name):
    """Standard error, and the output of other programs, go to the same log."""
    mixed = [part for event in STREAMS[name] for part in (*FOREIGN, event)]

    assert read(*STREAMS[name]) == read(*mixed, *FOREIGN)
    assert read(*STREAMS[name]) == read(*mixed, *FOREIGN, of=name)


def test_a_log_of_an_unknown_format_has_no_result(read):
    """An empty log has none either."""
    assert AgentResult() == read(*FOREIGN) == read() == read(b"words", of="claude")


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_recognized_by_its_lines(read, name):
    """A caller's format is not checked against the lines."""
    others = [other for other in STREAMS if other != name]

    assert name == read(*STREAMS[name]).format
    assert read(*STREAMS[name]) == read(*STREAMS[name], of="shell")
    assert [None, None] == [read(*STREAMS[name], of=other).format for other in others]


@pytest.mark.parametrize(
    "wrong", [{"result": 5, "total_cost_usd": "much", "usage": [], "num_turns": True}, {}]
)
def test_values_of_another_kind_are_left_out(read, wrong):
    """A cost that is not a number is None."""
    bare = {"type": "result", "session_id": CLAUDE_ID, "is_error": False}

    result = read(CLAUDE_INIT, bare | wrong)

    assert (None,) * 4 == (result.result, result.cost_usd, result.usage, result.turns)
    assert result.is_error is False


# --- big, compressed, damaged ------------------------------------------------------------------


def noise(size):
    line = lines(CLAUDE_TOOL)
    return line * (size // len(line) + 1)


@pytest.mark.parametrize("name", STREAMS)
def test_the_ends_of_a_huge_log_are_enough(tmp_path, name, monkeypatch):
    """The session is at the start, the rest at the end. The middle is never read."""
    monkeypatch.setattr(log_reader, "LOOK_BACK", 1 << 20)
    first, *others = STREAMS[name]
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(lines(first))
        file.seek(1 << 36)  # 64 GB, nearly all of it a hole
        file.write(b"\n" + lines(*others[-4:]))
    whole = read_stream(path)

    path.write_bytes(lines(*STREAMS[name]))
    assert read_stream(path) == whole


def test_reading_a_large_log_takes_little_memory(tmp_path):
    """Memory depends neither on the size nor on the length of the lines."""
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(lines(*CLAUDE))
        file.truncate(200 << 20)  # one line of zeros, too long to be held
        file.seek(200 << 20)
        file.write(b"\n" + lines(CLAUDE_RESULT))
    tracemalloc.start()
    result = read_stream(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (False, CLAUDE_ID) == (result.is_error, result.session_id)
    assert peak < 3 * log_reader.LONGEST


def test_a_line_is_assembled_from_its_chunks(read):
    """Wherever the chunks end."""
    for size in range(65_500, 65_560):
        message = "x" * size
        assert (
            message
            == read(*CLAUDE[:3], claude_message(text_block(message)), CLAUDE_RESULT).last_message
        )


def test_a_line_of_up_to_4_mb_is_read(read):
    """A longer line is skipped."""
    long, longer = "y" * (3 << 20), "z" * (5 << 20)

    result = read(
        *CLAUDE[:3],
        claude_message(text_block(long)),
        claude_message(text_block(longer)),
        CLAUDE_RESULT,
    )

    assert long == result.last_message

    not_so = b"not so:" + b" " * (5 << 20) + lines(CLAUDE_RESULT)
    assert read(*CLAUDE, not_so).is_error is None  # Its end is not read as a line.


def test_a_line_across_the_end_of_the_reading_is_skipped(read, monkeypatch):
    """The end of a line may look like a line."""
    half = lines(CLAUDE_RESULT)
    monkeypatch.setattr(log_reader, "LOOK_BACK", len(half))

    assert read(CLAUDE_INIT, b"not so: " + half).is_error is None
    assert read(CLAUDE_INIT, half).is_error is None  # The reader cannot know, and stops.
    assert read(half).is_error is False


@pytest.mark.parametrize("name", STREAMS)
def test_a_compressed_log_has_the_same_result(tmp_path, name):
    """Retention compresses old logs; the name in the record stays."""
    path = tmp_path / "log"
    path.write_bytes(lines(*STREAMS[name]))
    plain = read_stream(path)
    path.rename(tmp_path / "other")
    (tmp_path / "log.gz").write_bytes(gzip.compress(lines(*STREAMS[name])))

    assert plain == read_stream(path)


def test_a_compressed_log_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    """The reader keeps only the two ends."""
    monkeypatch.setattr(log_reader, "LOOK_BACK", 1 << 20)
    path = tmp_path / "log"
    with gzip.open(tmp_path / "log.gz", "wb", compresslevel=1) as file:
        file.write(lines(CLAUDE_INIT) + noise(40 << 20) + lines(CLAUDE[3], CLAUDE_RESULT))
    tracemalloc.start()
    result = read_stream(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert ("There is a README.", CLAUDE_ID) == (result.last_message, result.session_id)
    assert peak < 8 << 20


def test_a_damaged_archive_is_an_error(tmp_path):
    """Damage is not read as an empty log."""
    packed = gzip.compress(lines(*CLAUDE) * 100)
    (tmp_path / "log.gz").write_bytes(packed[: len(packed) // 2])

    with pytest.raises(StorageError, match="damaged"):
        read_stream(tmp_path / "log")


def test_a_missing_log_is_not_found(tmp_path):
    """There is neither a plain nor a compressed one."""
    with pytest.raises(FileNotFoundError):
        read_stream(tmp_path / "log")
