"""
Recordings of the real programs, replayed where they are: a directory beside the checkout.

``manifest.json`` there names each recording and the exit status of its program. Each name
starts with the tool's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator_core import AgentSpec
from orchestrator_core.testing import Exits

_BESIDE = Path(__file__).parents[3] / "shared" / "real_streams"
PLACE = Path(os.environ.get("ORCHESTRATOR_CORE_RECORDINGS") or _BESIDE)

#: What the end of each failed run must say, by a part of the recording's name.
REASONS = {
    "claude-wrong-key": "Invalid API key",
    "claude-not-logged-in": "Not logged in",
    "claude-api-429": "(429)",
    "claude-api-500": "500",
    "claude-api-529": "529",
    "claude-unknown-model": "selected model",
    "claude-prompt-too-long": "Prompt is too long",
    "claude-no-credit": "Credit balance is too low",
    "claude-max-turns": "maximum number of turns",
    "claude-max-budget": "maximum budget",
    "claude-resume-unknown": "No conversation found",
    "claude-bypass-as-root": "cannot be used with root",
    "claude-sigint-no-result": "without a result",
    "claude-sigint-in-tool": "ede_diagnostic",
    "codex-wrong-key": "401 Unauthorized",
    "codex-no-key": "Missing environment variable",
    "codex-api-500": "high demand",
    "codex-unknown-model": "`nosuch`",
    "codex-context-overflow": "context window",
    "codex-quota": "Quota exceeded",
    "codex-resume-unknown": "no rollout found",
    "codex-prompt-too-large": "maximum length",
    "codex-no-git-repo": "trusted directory",
    "gemini-wrong-key": "API key not valid",
    "gemini-unknown-model": "models/nosuch",
    "gemini-context-overflow": "exceeds the ma",
    "gemini-no-key": "GEMINI_API_KEY",
    "gemini-untrusted-folder": "--skip-trust",
    "gemini-resume-unknown": "Invalid session identifier",
    "gemini-lost-stdin": "No input provided",
}
RETRIES = {
    "claude-wrong-key": "attempt 2 of 2, 401",
    "claude-api-429": "attempt 2 of 2, 429",
    "codex-wrong-key": "attempt 1 of 1, 401",
    "gemini-api-429-killed": "attempt 3, 429",
}


def recordings():
    """Return the name without the version, the tool, the exit status, and the bytes of each."""
    try:
        entries = json.loads((PLACE / "manifest.json").read_bytes())
    except FileNotFoundError:
        return
    for entry in entries:
        tool, _, rest = entry["file"].removesuffix(".jsonl").partition("-")
        name = f"{tool}-{rest.partition('-')[2]}"
        yield name, tool, entry["exit"], (PLACE / entry["file"]).read_bytes()


def expected_totals(data):
    """Return tokens, cost and turns as the lines of a Claude Code stream have them."""
    events = [json.loads(line) for line in data.splitlines() if line[:1] in b"{["]
    events = events[0] if isinstance(events[0], list) else events
    results = [event for event in events if event["type"] == "result"]
    if not results:
        return None
    models = results[-1]["modelUsage"].values()
    inputs = ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
    return (
        sum(model[name] for model in models for name in inputs),
        sum(model["outputTokens"] for model in models),
        results[-1]["total_cost_usd"],
        sum(result["num_turns"] for result in results),
    )


@pytest.fixture
def replay(orchestrator, fake_agent):
    task = orchestrator.create_task("t")

    def replayed(tool, code, data):
        fake_agent(tool, Exits(code, writes=data))
        agent = orchestrator.deploy(task.id, getattr(AgentSpec, tool)(prompt="p"))
        return orchestrator.wait(agent.id, timeout_s=60), orchestrator.read_result(agent.id)

    return replayed


def test_every_recorded_run_ends_as_it_really_did(replay):
    """A success has its answer; a failure has its reason in the end and in the result."""
    for name, tool, code, data in recordings():
        if not hasattr(AgentSpec, tool) or not isinstance(code, int) or "deadline" in name:
            continue
        if name == "claude-reports-completed-cut-off":
            continue
        end, result = replay(tool, code, data)

        if why := REASONS.get(name):
            assert ("failed", None) == (end.status, result.result), name
            assert why in end.reason, name
            assert why in (result.error or end.reason), name
        else:
            assert ("completed", False, None) == (end.status, result.is_error, result.error), name
            assert result.result, name


def test_the_totals_of_every_recorded_claude_are_those_of_its_newest_result(replay):
    for name, tool, code, data in recordings():
        wanted = expected_totals(data) if tool == "claude" and code == 0 else None
        if wanted is not None:
            usage, result = (read := replay(tool, code, data)[1]).usage, read
            found = (usage.input_tokens, usage.output_tokens, result.cost_usd, result.turns)
            assert wanted == found, name


def test_recorded_retries_and_denials_are_reported(replay):
    for name, tool, code, data in recordings():
        if name in RETRIES:
            assert RETRIES[name] == replay(tool, code or 0, data)[1].retry, name
        if name == "claude-tool-denied":
            assert ["Bash"] == [
                denial.tool for denial in replay(tool, 0, data)[1].permission_denials
            ]


def test_a_place_that_was_named_has_recordings():
    """A misspelt variable must not pass for a replay."""
    if os.environ.get("ORCHESTRATOR_CORE_RECORDINGS"):
        assert list(recordings())
