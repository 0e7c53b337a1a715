"""The tools in a server, on a fake terminal: names, results, errors, cancellation."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading

import anyio
import jsonschema
import pytest
from mcp import Client, types
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from support.fakes import a_fake_scene

from orchestrator_core import Orchestrator, cli
from orchestrator_core.deployment import reports as reporting
from orchestrator_core.exceptions import InvalidInput, StorageError, TerminalError, WaitTimeout
from orchestrator_core.mcp import (
    AgentKind,
    ProgressObserver,
    output_slice,
    progress,
    register_tools,
)
from orchestrator_core.mcp.agent_kind import kind_from
from orchestrator_core.mcp.output_slice import OutputQuery, slice_output
from orchestrator_core.mcp.progress import ToolCall
from orchestrator_core.mcp.token import read_or_create_token, replace_token
from orchestrator_core.mcp.tools import describe_tools
from orchestrator_core.model import settings
from orchestrator_core.saga import Observer, combine

LONG_S = 20


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def asked(scene):
    """Call the tools of a server, one after another, as a client does."""

    def ask(*questions, kind=None, observer=None):
        orch = scene.orchestrator(observer=observer)
        server = server_of(orch, kind or AgentKind(command=[str(scene.bin / "lives")]))

        async def talk():
            async with Client(server, mode="legacy") as client:
                return [await client.call_tool(tool, how) for tool, how in questions]

        return asyncio.run(talk())

    return ask


def server_of(orch, kind):
    server = MCPServer("a server")
    register_tools(server, orch, kind=kind)
    return server


@pytest.fixture
def deployed(scene):
    """A task, and an active agent of it."""
    orch = scene.orchestrator()
    task = orch.create_task("See")
    return task.id, orch.deploy(task.id, scene.spec()).id


def values_of(result):
    """Return a result's values; those of a long output are in its text only."""
    return result.structured_content or json.loads(text_of(result))


def text_of(result):
    return "\n".join(block.text for block in result.content)


def test_odd_records_disable_no_tool(scene, asked, deployed):
    """Another program has written a time as a number, and a limit as null."""
    task, agent = deployed
    path = scene.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_text())
    document["agents"][0] |= {"completed_at": 1730000000, "key": 4, "progress": "half"}
    path.write_text(json.dumps({**document, "max_depth": None, "priority": 2}))

    listed, status = asked(("list_agents", {}), ("get_real_task_status", {"task_id": task}))

    assert [False, False] == [listed.is_error, status.is_error]
    [shown] = listed.structured_content["agents"]
    assert (agent, "1730000000", 0) == (shown["id"], shown["completed_at"], shown["progress"])
    assert ("2", True) == (
        status.structured_content["priority"],
        isinstance(status.structured_content["limits"]["max_depth"], int),
    )


def test_a_list_names_what_could_not_be_read(scene, asked, deployed):
    task, agent = deployed
    (scene.root / task / "AGENT_REGISTRY.json").unlink()

    [listed] = asked(("list_agents", {}))

    assert [agent] == [each["id"] for each in listed.structured_content["agents"]]
    assert [True] == [task in line for line in listed.structured_content["unknown"]]


# --- names and results ---------------------------------------------------------------------------

#: The parameters and the result fields that existing agents use.
KNOWN = {
    "create_real_task": (
        "description priority client_cwd",
        "success task_id description priority workspace status has_enhanced_context",
    ),
    "deploy_headless_agent": (
        "task_id agent_type prompt parent",
        "success agent_id tmux_session type parent task_id status workspace deployment_method",
    ),
    "spawn_child_agent": (
        "task_id parent_agent_id child_agent_type child_prompt",
        "success agent_id tmux_session type parent task_id status workspace deployment_method",
    ),
    "kill_real_agent": (
        "task_id agent_id reason",
        "success agent_id tmux_session session_killed reason status cleanup",
    ),
    "update_agent_progress": (
        "task_id agent_id status message progress",
        "success own_update coordination_info",
    ),
    "report_agent_finding": (
        "task_id agent_id finding_type severity message data",
        "success own_finding coordination_info",
    ),
    "get_real_task_status": (
        "task_id",
        "success description status workspace agents hierarchy enhanced_progress limits",
    ),
    "get_agent_output": (
        "task_id agent_id tail filter format include_metadata max_bytes response_format",
        "success session_status output source tmux_session",
    ),
    "get_agent_result": (
        "task_id agent_id",
        "success status result error cost_usd usage permission_denials",
    ),
    "list_agents": ("task_id status", "success agents"),
    "sweep_agents": ("reap", "success findings"),
    "get_agent_timeline": ("task_id agent_id", "success events"),
}


#: Their answers are long, and sent once: as text, without an output schema.
TEXT_ONLY = {"get_agent_output"}


def test_the_tools_have_the_names_parameters_and_results_that_agents_know(scene):
    """Each tool and each parameter has a description."""
    server = server_of(scene.orchestrator(), AgentKind())
    tools = {tool.name: tool for tool in asyncio.run(server.list_tools())}

    assert KNOWN.keys() == tools.keys()
    for name, (parameters, results) in KNOWN.items():
        taken = tools[name].input_schema["properties"]
        assert set(parameters.split()) <= taken.keys(), name
        if name not in TEXT_ONLY:
            assert set(results.split()) <= tools[name].output_schema["properties"].keys(), name
            assert ["success"] == tools[name].output_schema["required"], name
        assert tools[name].description.strip() == tools[name].description, name
        assert all(each.get("description") for each in taken.values()), name


def test_no_tool_lets_a_model_choose_the_program(scene):
    """Neither a command nor an environment is a parameter."""
    server = server_of(scene.orchestrator(), AgentKind())
    for tool in asyncio.run(server.list_tools()):
        assert not re.search(r"command|argv|env|program", " ".join(tool.input_schema["properties"]))


def test_an_invented_parameter_has_no_effect_and_is_reported(scene, asked, deployed):
    """The agent runs the server's command, whatever a model adds; the result names the rest."""
    task, _ = deployed
    made_up = {"command": ["/bin/false"], "env": {"A": "b"}, "cwd": "/nowhere"}
    how = {"task_id": task, "agent_type": "b", "prompt": "p", **made_up}

    [result] = asked(("deploy_headless_agent", how))

    agent = scene.orchestrator().agent(result.structured_content["agent_id"])
    assert agent.is_active
    log = json.loads((scene.root / task / "logs" / f"deploy_{agent.id}.json").read_text())
    assert str(scene.bin / "lives") == log["program"]
    assert all(
        any(name in warning for warning in result.structured_content["validation_warnings"])
        for name in made_up
    )


def test_the_parts_of_a_result_have_their_fields(asked, deployed):
    """The update, the finding, the counts and the cleanup."""
    task, agent = deployed
    me = {"task_id": task, "agent_id": agent}
    found = {"finding_type": "issue", "severity": "low", "message": "m", "data": {"line": 3}}
    update, finding, status, killed = (
        result.structured_content
        for result in asked(
            ("update_agent_progress", {**me, "status": "working", "message": "m", "progress": 5}),
            ("report_agent_finding", {**me, **found}),
            ("get_real_task_status", {"task_id": task}),
            ("kill_real_agent", me),
        )
    )

    assert {"agent_id", "status", "progress", "message", "timestamp"} == update["own_update"].keys()
    assert {"total_spawned": 1, "active": 1, "completed": 0} == update["coordination_info"][
        "agent_counts"
    ]
    assert {"line": 3} == finding["own_finding"]["data"]
    assert [finding["own_finding"]] == finding["coordination_info"]["recent_findings"]
    assert {"total_spawned", "active", "completed", "agents_list"} == status["agents"].keys()
    assert [5] == [each["progress"] for each in status["enhanced_progress"]["recent_updates"]]
    assert {"max_agents", "max_depth", "max_concurrent"} == status["limits"].keys()
    assert {
        *("success", "tmux_session_killed", "prompt_file_deleted", "log_files_archived"),
        *("verified_no_zombies", "escalated_to_sigkill", "errors", "archived_files"),
    } == killed["cleanup"].keys()
    assert ("terminated", "Manual termination") == (killed["status"], killed["reason"])


def test_a_report_without_progress_keeps_the_last_one(asked, deployed):
    """A blocked agent that was half done is still half done."""
    task, agent = deployed
    me = {"task_id": task, "agent_id": agent}
    *_, blocked = asked(
        ("update_agent_progress", {**me, "status": "working", "progress": 50}),
        ("update_agent_progress", {**me, "status": "blocked"}),
    )

    assert 50 == blocked.structured_content["own_update"]["progress"]


def test_a_report_needs_no_id_inside_an_agent(asked, deployed, monkeypatch):
    """The environment has the agent's ids."""
    task, agent = deployed
    monkeypatch.setenv("ORCHESTRATOR_AGENT_ID", agent)
    monkeypatch.setenv("ORCHESTRATOR_TASK_ID", task)

    [result] = asked(("update_agent_progress", {"status": "working"}))

    assert agent == result.structured_content["own_update"]["agent_id"]


def test_a_report_to_a_root_that_was_guessed_says_so(scene, deployed, monkeypatch):
    """An agent's own server may have opened a root near its directory, and not the agent's."""
    orch = scene.orchestrator()
    monkeypatch.setattr(orch, "chosen_by", "the nearest .agent-workspace")
    me = {"task_id": deployed[0], "agent_id": "elsewhere-120000-abcdef", "status": "working"}

    _, [result] = names_and_answers(server_of(orch, AgentKind()), ("update_agent_progress", me))

    assert result.is_error
    assert "started without a root" in text_of(result)
    assert "ORCHESTRATOR_ROOT" in text_of(result)


def test_the_last_findings_are_those_of_all_agents_of_the_task(scene, asked, monkeypatch):
    """The three newest, including those of ended agents, the newest first."""
    moments = (f"2020-01-01T00:00:00.{ms:03}+00:00" for ms in itertools.count())
    monkeypatch.setattr(reporting, "timestamp", lambda: next(moments))  # All different.
    orch = scene.orchestrator()
    task = orch.create_task("See").id
    agents = [orch.deploy(task, scene.spec()).id for _ in range(4)]
    for number in range(8):
        orch.report_finding(agents[number % 4], f"finding {number}")
    orch.terminate(agents[3])  # The last finding is its.

    [result] = asked(
        ("update_agent_progress", {"task_id": task, "agent_id": agents[0], "status": "working"})
    )

    assert ["finding 7", "finding 6", "finding 5"] == [
        each["message"]
        for each in result.structured_content["coordination_info"]["recent_findings"]
    ]


def test_a_tasks_context_comes_before_each_prompt(scene, asked):
    """The task stores it once, and each of its agents reads it."""
    about = {"background_context": "It is slow.", "constraints": ["no new index", "no downtime"]}
    [made] = asked(("create_real_task", {"description": "See", **about}))
    task = made.structured_content["task_id"]
    asked(("deploy_headless_agent", {"task_id": task, "agent_type": "b", "prompt": "Mend it."}))

    [prompt] = scene.root.glob("TASK-*/agent_prompt_*")

    assert prompt.read_text() == (
        "# Background\n\nIt is slow.\n\n# Constraints\n\n- no new index\n- no downtime\n\n"
        "# Your task\n\nMend it."
    )


# --- as agents write, who know the system before -------------------------------------------------


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("WORKING", "working"),
        ("in progress", "running"),
        ("reviewing", "working"),
        ("Blocked", "blocked"),
        ("waiting", "blocked"),
    ],
)
def test_a_status_may_be_written_in_other_words(asked, deployed, written, status):
    me = {"task_id": deployed[0], "agent_id": deployed[1]}
    update, agents = asked(
        ("update_agent_progress", {**me, "status": written}), ("list_agents", {"status": written})
    )

    assert status == update.structured_content["own_update"]["status"]
    assert [status] == [each["status"] for each in agents.structured_content["agents"]]


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("DONE", "completed"),
        ("phase_completed", "completed"),
        ("Failure", "failed"),
        ("killed", "terminated"),
    ],
)
def test_an_end_may_be_reported_in_other_words(scene, asked, deployed, written, status):
    asked(
        (
            "update_agent_progress",
            {"task_id": deployed[0], "agent_id": deployed[1], "status": written},
        )
    )

    assert status == scene.orchestrator().agent(deployed[1]).status


@pytest.mark.parametrize(
    ("written", "severity"),
    [("HIGH", "high"), ("warning", "medium"), ("Blocker", "critical"), ("minor", "low")],
)
def test_a_severity_may_be_written_in_other_words(asked, deployed, written, severity):
    found = {"finding_type": "x", "severity": written, "message": "m"}
    [result] = asked(
        ("report_agent_finding", {"task_id": deployed[0], "agent_id": deployed[1], **found})
    )

    assert severity == result.structured_content["own_finding"]["severity"]


def test_an_unknown_severity_is_refused_with_the_known_ones(asked, deployed):
    found = {"finding_type": "x", "severity": "purple", "message": "m"}
    [result] = asked(
        ("report_agent_finding", {"task_id": deployed[0], "agent_id": deployed[1], **found})
    )

    assert result.is_error
    assert "medium, high, critical" in text_of(result)


@pytest.mark.parametrize(
    ("written", "percent"), [(150, 100), (-3, 0), (55.5, 56), ("40", 40), (100, 100)]
)
def test_a_progress_beyond_its_bounds_is_the_nearest_one(asked, deployed, written, percent):
    """The answer says so."""
    me = {"task_id": deployed[0], "agent_id": deployed[1], "status": "working"}
    [result] = asked(("update_agent_progress", {**me, "progress": written}))

    assert percent == result.structured_content["own_update"]["progress"]
    is_changed = float(written) != percent
    assert is_changed == ("validation_warnings" in result.structured_content)


def test_all_of_a_tasks_context_reaches_the_agent(scene, asked):
    conversation = [
        {"role": "user", "content": "early " * 9_000},
        *({"role": "user", "content": "x" * 9_000} for _ in range(9)),
        {"role": "assistant", "content": "I would look at the index."},
    ]
    [made] = asked(
        (
            "create_real_task",
            {
                "description": "See",
                "phases": [{"name": "Look", "deliverables": ["a report", "a plan"]}],
                "project_context": {"framework": "Django", "port": 8000},
                "related_documentation": ["docs/db.md"],
                "conversation_history": conversation,
            },
        )
    )
    task = made.structured_content["task_id"]
    asked(("deploy_headless_agent", {"task_id": task, "agent_type": "b", "prompt": "Mend it."}))

    prompt = next(scene.root.glob("TASK-*/agent_prompt_*")).read_text()
    assert made.structured_content["has_enhanced_context"]
    assert "# Phases\n\n- Look; deliverables: a report, a plan\n" in prompt
    assert "- framework: Django\n- port: 8000\n" in prompt
    assert "- docs/db.md\n" in prompt
    assert "assistant: I would look at the index.\n\n# Your task" in prompt
    assert "(earlier messages are left out)" in prompt
    assert "early" not in prompt
    assert 45_000 > len(prompt)


def test_a_status_has_the_newest_reports_first_and_counts_all(scene, asked, deployed):
    orch = scene.orchestrator()
    for number in range(12):
        orch.report_progress(deployed[1], message=f"update {number}")
        orch.report_finding(deployed[1], f"finding {number}")

    [status] = asked(("get_real_task_status", {"task_id": deployed[0]}))

    progress = status.structured_content["enhanced_progress"]
    expected = range(11, 1, -1)
    assert [f"update {n}" for n in expected] == [e["message"] for e in progress["recent_updates"]]
    assert [f"finding {n}" for n in expected] == [e["message"] for e in progress["recent_findings"]]
    assert (12, 12) == (progress["total_updates"], progress["total_findings"])


# --- an agent's answer ----------------------------------------------------------------------------

_STREAM = [
    {"type": "system", "subtype": "init", "session_id": "s-1"},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "Looking."}]}},
    {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": "The index is missing." + "x" * 600,
        "session_id": "s-1",
        "num_turns": 2,
        "duration_ms": 1200,
        "total_cost_usd": 0.25,
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "rm"}}],
    },
]


def test_an_agents_answer_has_its_result_cost_tokens_and_denials(scene, asked, deployed):
    task, agent = deployed
    log = next(scene.root.glob("TASK-*/logs/*_stream.jsonl"))
    log.write_text("".join(f"{json.dumps(event)}\n" for event in _STREAM))
    me = {"task_id": task, "agent_id": agent}

    before, _, after, status = asked(
        ("get_agent_result", me),
        ("update_agent_progress", {**me, "status": "completed"}),
        ("get_agent_result", me),
        ("get_real_task_status", {"task_id": task}),
    )

    assert None is before.structured_content["result"]  # It may go on after a result.
    answer = after.structured_content
    assert ("completed", False) == (answer["status"], answer["is_error"])
    assert answer["result"].startswith("The index is missing.")
    assert (0.25, 10, 5) == (
        answer["cost_usd"],
        answer["usage"]["input_tokens"],
        answer["usage"]["output_tokens"],
    )
    assert [{"tool": "Bash", "input": {"command": "rm"}}] == answer["permission_denials"]
    [listed] = status.structured_content["agents"]["agents_list"]
    assert 501 == len(listed["result"]["result"])
    assert (0.25, 1) == (listed["result"]["cost_usd"], listed["result"]["permission_denials"])


@pytest.mark.parametrize("tool", ["list_agents", "get_real_task_status", "get_agent_result"])
def test_a_look_notices_an_agent_that_has_died_without_a_report(scene, deployed, tool):
    """No sweeper runs; the server that lists agents recovers what is dead."""
    task, agent = deployed
    server = server_of(scene.orchestrator(), AgentKind())
    scene.fake.kill_server()
    me = {"task_id": task, "agent_id": agent} if tool == "get_agent_result" else {"task_id": task}

    _, [result] = names_and_answers(server, (tool, me))

    assert '"status":"running"' not in text_of(result)
    assert not scene.orchestrator(recover=False).agent(agent).is_active


# --- in anybody's server -------------------------------------------------------------------------


def a_lowlevel_server():
    """Return one with a tool of its own."""

    async def list_tools(_ctx, _params):
        own = types.Tool(name="mine", input_schema={"type": "object"})
        return types.ListToolsResult(tools=[own])

    async def call_tool(_ctx, params):
        text = types.TextContent(type="text", text=f"{params.name} of its owner")
        return types.CallToolResult(content=[text])

    return Server("a server", on_list_tools=list_tools, on_call_tool=call_tool)


def a_high_level_server():
    server = MCPServer("a server")

    @server.tool()
    def mine() -> str:
        return "mine of its owner"

    return server


SERVERS = [a_lowlevel_server, a_high_level_server]


def names_and_answers(server, *questions):
    """Return the names of a server's tools, and the answers of some."""

    async def talk():
        async with Client(server, mode="legacy") as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            return names, [await client.call_tool(tool, how) for tool, how in questions]

    return asyncio.run(talk())


@pytest.mark.parametrize("make", SERVERS)
def test_the_servers_own_tools_stay(scene, make):
    server = make()
    register_tools(server, scene.orchestrator())

    names, [mine, agents] = names_and_answers(server, ("mine", {}), ("list_agents", {}))

    assert {"mine", *KNOWN} == names
    assert "mine of its owner" == text_of(mine)
    assert 0 == agents.structured_content["count"]


@pytest.mark.parametrize("make", SERVERS)
def test_a_second_orchestrator_needs_a_prefix(scene, tmp_path, make):
    """Its tools are not ignored in silence, and the two do not see each other's tasks."""
    first, second = scene.orchestrator(), Orchestrator(tmp_path / "second", terminal=scene.fake)
    server = make()
    register_tools(server, first)

    with pytest.raises(InvalidInput, match="of this name already: create_real_task") as refused:
        register_tools(server, second)
    register_tools(server, second, prefix="second_", only=["create_real_task", "list_agents"])

    names, [made, failed] = names_and_answers(
        server,
        ("second_create_real_task", {"description": "See"}),
        ("second_create_real_task", {"description": ""}),
    )
    assert "prefix" in refused.value.hint
    assert {"mine", *KNOWN, "second_create_real_task", "second_list_agents"} == names
    assert [made.structured_content["task_id"]] == [task.id for task in second.tasks()]
    assert [] == first.tasks()
    assert failed.is_error


def test_the_texts_of_a_prefixed_tool_name_prefixed_tools(scene):
    tools = {
        each.name: each for each in describe_tools(scene.orchestrator(), AgentKind(), prefix="a_")
    }

    assert "a_create_real_task returned" in str(tools["a_deploy_headless_agent"].input_schema)
    answer = asyncio.run(tools["a_list_agents"].call({"task_id": "TASK-none"}, ToolCall()))
    assert "a_create_real_task makes" in answer.text


@pytest.mark.parametrize("only", [["create_task"], "list_agents", ["list_agents", ""]])
def test_an_unknown_tool_is_not_chosen(scene, only):
    with pytest.raises(InvalidInput, match="names no tool"):
        register_tools(MCPServer("a server"), scene.orchestrator(), only=only)


def test_a_server_of_an_unknown_kind_is_refused(scene):
    with pytest.raises(InvalidInput, match=r"builtins\.object is not known"):
        register_tools(object(), scene.orchestrator())


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "how", "code", "message"),
    [
        ("get_real_task_status", {"task_id": "TASK-none"}, "not-found", "TASK-none"),
        ("get_agent_timeline", {"agent_id": "nobody"}, "not-found", "nobody"),
        ("kill_real_agent", {"task_id": "TASK-other"}, "not-found", "has no agent"),
        ("kill_real_agent", {"task_id": "the slow query"}, "not-found", "it is of 'TASK-"),
        ("update_agent_progress", {"status": "dancing"}, "invalid-input", "completed"),
        ("get_agent_output", {"filter": "("}, "invalid-input", "is no pattern"),
        ("deploy_headless_agent", {"agent_type": "a b", "prompt": "p"}, "invalid-id", "a b"),
        ("deploy_headless_agent", {"agent_type": "b", "prompt": " "}, "invalid-input", "empty"),
        ("create_real_task", {"description": "d", "client_cwd": "no"}, "invalid-input", "absolute"),
        ("create_real_task", {}, "invalid-input", "description is missing"),
        ("create_real_task", {"description": ["a"]}, "invalid-input", "a valid string"),
    ],
)
def test_an_error_result_has_the_message_and_the_hint(tool, how, code, message, asked, deployed):
    """The result has both as text for the model and as values, and is marked as an error."""
    task, agent = deployed
    [result] = asked((tool, {"task_id": task, "agent_id": agent, **how}))

    assert result.is_error
    values = values_of(result) if tool not in TEXT_ONLY else {"success": False, "code": code}
    assert (False, code) == tuple(map(values.get, ("success", "code")))
    assert message in text_of(result)
    assert f"hint: {values.get('hint', '')}" in text_of(result)


def answers_to_everything(task, agent):
    """Return calls whose answers have every shape: results, refusals, failures."""
    me = {"task_id": task, "agent_id": agent}
    return [
        ("create_real_task", {"description": "See"}),
        ("create_real_task", {"description": ""}),
        ("create_real_task", {}),
        ("deploy_headless_agent", {"task_id": task, "agent_type": "b", "prompt": "p"}),
        ("deploy_headless_agent", {"task_id": task, "agent_type": "a b", "prompt": "p"}),
        ("spawn_child_agent", {"task_id": task}),
        ("get_real_task_status", {"task_id": task}),
        ("get_real_task_status", {"task_id": "TASK-none"}),
        ("get_agent_output", me),
        ("get_agent_output", {**me, "filter": "("}),
        ("list_agents", {}),
        ("list_agents", {"task_id": "TASK-none"}),
        ("sweep_agents", {}),
        ("sweep_agents", {"reap": "perhaps"}),
        ("get_agent_timeline", me),
        ("get_agent_timeline", {**me, "agent_id": "nobody"}),
        ("get_agent_result", me),
        ("get_agent_result", {**me, "task_id": "TASK-none"}),
        ("update_agent_progress", {**me, "status": "working"}),
        ("update_agent_progress", {**me, "status": "dancing"}),
        (
            "report_agent_finding",
            {**me, "finding_type": "x", "severity": "low", "message": "m"},
        ),
        ("report_agent_finding", {**me, "finding_type": "x", "severity": "low"}),
        ("kill_real_agent", me),
        ("kill_real_agent", {**me, "agent_id": "nobody"}),
    ]


def test_every_answer_fits_the_schema_that_its_tool_declares(scene, deployed):
    """Some clients check an error's values as well, and drop its text if they do not fit."""
    server = server_of(scene.orchestrator(), AgentKind(command=[str(scene.bin / "lives")]))

    async def talk():
        async with Client(server, mode="legacy") as client:
            schemas = {each.name: each.output_schema for each in (await client.list_tools()).tools}
            calls = answers_to_everything(*deployed)
            return schemas, [(name, await client.call_tool(name, how)) for name, how in calls]

    schemas, results = asyncio.run(talk())

    assert 9 < sum(result.is_error for _, result in results)
    for name, result in results:
        assert text_of(result)
        if schemas[name] is None:
            assert result.structured_content is None
        else:
            jsonschema.validate(result.structured_content, schemas[name])


def test_an_error_is_in_a_models_words(asked, deployed):
    """It has no shell, sees no path, and cannot open an address."""
    for result in asked(*answers_to_everything(*deployed)):
        if result.is_error:
            assert not re.search(r"orchestrator-core|https?:|AGENT_REGISTRY|pydantic", str(result))


def test_half_an_emoji_in_an_argument_is_replaced(scene):
    """A text that was cut in the middle of an emoji is no Unicode, and JSON can hold it."""
    half = {"description": "cut \ud83d", "success_criteria": ["\ude00 cut"]}
    [tool] = (
        each
        for each in describe_tools(scene.orchestrator(), AgentKind())
        if each.name == "create_real_task"
    )

    answer = asyncio.run(tool.call(half, ToolCall()))

    assert not answer.is_error
    [task] = scene.orchestrator().tasks()
    assert "cut \ufffd" == task.description
    assert ["\ufffd cut"] == task.record["task_context"]["success_criteria"]


def test_a_list_that_was_sent_as_text_is_read_as_a_list(scene, asked):
    """Some clients send lists and objects as JSON in a string."""
    asked(("create_real_task", {"description": "See", "constraints": '["no downtime"]'}))

    [task] = scene.orchestrator().tasks()
    assert ["no downtime"] == task.record["task_context"]["constraints"]


def test_a_copy_of_a_task_has_none_of_its_agents(scene, asked, deployed):
    """A backup of a task's directory is not a second task."""
    task, agent = deployed
    shutil.copytree(scene.root / task, scene.root / "TASK-bak", ignore=lambda *_: ["run"])

    [result] = asked(("kill_real_agent", {"task_id": "TASK-bak", "agent_id": agent}))

    assert f"it is of '{task}'" in text_of(result)
    assert scene.orchestrator().agent(agent).is_active


def test_a_search_for_an_agent_in_a_wrong_task_repairs_nothing_there(scene, asked, deployed):
    other = scene.orchestrator().create_task("Another").id
    registry = scene.root / other / "AGENT_REGISTRY.json"
    registry.write_text("garbage")

    [result] = asked(("get_agent_output", {"task_id": other, "agent_id": deployed[1]}))

    assert "it is of" in text_of(result)
    assert "garbage" == registry.read_text()
    assert [] == [*registry.parent.glob("*.damaged-*")]


def test_a_failed_deployment_reports_the_cleanup_of_its_resources(scene, asked):
    """The result names what was cleaned up, and nothing is left."""
    task = scene.orchestrator().create_task("See").id
    kind = AgentKind(command=[str(scene.bin / "dies-early")], grace_s=5)
    how = {"task_id": task, "agent_type": "b", "prompt": "p"}

    [result] = asked(("deploy_headless_agent", how), kind=kind)

    assert result.is_error
    assert result.structured_content["cleanup_performed"]
    assert result.structured_content["resources_cleaned"]["tmux_session"]
    assert result.structured_content["resources_cleaned"]["prompt_file"]
    assert [] == scene.world.leftovers()


def test_a_server_without_an_agent_command_names_the_option_that_sets_it(scene, asked):
    """Only deployments need a command."""
    task = scene.orchestrator().create_task("See").id
    how = {"task_id": task, "agent_type": "b", "prompt": "p"}

    [result] = asked(("deploy_headless_agent", how), kind=AgentKind())

    assert "--agent-command" in text_of(result)
    assert (False, {}) == tuple(
        map(result.structured_content.get, ("cleanup_performed", "resources_cleaned"))
    )


def test_a_report_after_the_end_is_an_error_with_that_end(scene, asked, deployed):
    """The first end counts."""
    task, agent = deployed
    scene.orchestrator().terminate(agent, reason="enough")
    me = {"task_id": task, "agent_id": agent}

    update, finding = asked(
        ("update_agent_progress", {**me, "status": "completed"}),
        ("report_agent_finding", {**me, "finding_type": "x", "severity": "low", "message": "m"}),
    )

    assert update.is_error
    assert finding.is_error
    assert "as terminated: enough" in text_of(update)


def test_a_kill_with_leftovers_is_an_error_that_names_them(scene, asked):
    """The result of an unkillable agent is no success."""
    orch = scene.orchestrator()
    task = orch.create_task("See").id
    agent = orch.deploy(task, scene.spec("unkillable")).id

    [result] = asked(("kill_real_agent", {"task_id": task, "agent_id": agent}))

    assert result.is_error
    assert "left behind: " in text_of(result)
    assert not result.structured_content["cleanup"]["success"]
    assert result.structured_content["cleanup"]["errors"]


# --- cancellation and progress -------------------------------------------------------------------


class Halts(Observer):
    """Stops every deployment in its middle, until the test releases it."""

    def __init__(self, after="spawn_tmux"):
        self.after = after
        self.here = threading.Event()
        self.go = threading.Event()

    def step_done(self, _saga_id, step, _duration_ms):
        if step == self.after:
            self.here.set()
            assert self.go.wait(LONG_S)


def a_deployment(scene, task, **where):
    """Return an observer that halts, a server that it watches, and a call that deploys."""
    halts = Halts(**where)
    server = server_of(
        scene.orchestrator(observer=halts), AgentKind(command=[str(scene.bin / "lives")])
    )
    how = {"task_id": task, "agent_type": "b", "prompt": "p"}
    return halts, server, ("deploy_headless_agent", how)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_cancelled_deployment_leaves_nothing(mode, scene):
    """The deployment's thread finishes. Then the agent is ended, and its record has the reason."""
    orch = scene.orchestrator()
    halts, server, question = a_deployment(scene, orch.create_task("See").id)

    async def talk():
        async with Client(server, mode=mode) as client:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.call_tool, *question)
                    await asyncio.to_thread(halts.here.wait, LONG_S)
                    scope.cancel()
                    if mode == "auto":  # Without a wire, the client waits for the call itself.
                        halts.go.set()
            await client.call_tool("list_agents", {})  # The server reads the cancellation first.
            halts.go.set()

    asyncio.run(talk())

    [agent] = orch.agents()
    assert ("terminated", "cancelled") == (agent.status, agent.end_reason)
    assert [] == scene.world.leftovers()


def test_a_deployment_that_fails_after_it_was_cancelled_leaves_nothing_either(scene):
    """There is no agent to undo, and no other error than the cancellation."""
    orch = scene.orchestrator()
    task = orch.create_task("See").id
    halts, server, question = a_deployment(scene, task, after="tee_log")

    async def talk():
        async with Client(server) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, *question)
            await asyncio.to_thread(halts.here.wait, LONG_S)
            scene.fake.fail("start")
            tasks.cancel_scope.cancel()
            halts.go.set()

    asyncio.run(talk())

    assert [] == orch.agents()
    assert [] == scene.world.leftovers()


def test_a_cancelled_deployment_that_cannot_be_undone_is_logged(scene, caplog):
    """The call has no result, so the log reports it; the next recovery retries."""
    halts, server, question = a_deployment(scene, scene.orchestrator().create_task("See").id)

    async def talk():
        async with Client(server) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, *question)
            await asyncio.to_thread(halts.here.wait, LONG_S)
            scene.fake.fail("kill", TerminalError("no"), times=1000)
            tasks.cancel_scope.cancel()
            halts.go.set()

    asyncio.run(talk())

    assert any("mcp.undo_failed" in record.message for record in caplog.records)
    scene.fake.mend()
    scene.orchestrator().recover(force=True)
    assert [] == scene.world.leftovers()


def test_a_long_call_sends_its_steps_and_a_heartbeat(scene, monkeypatch):
    """The numbers rise; each step has a message, and heartbeats come in between."""
    monkeypatch.setattr(progress, "_HEARTBEAT_S", 0.01)
    halts, messages = Halts(), []
    orch = scene.orchestrator(observer=combine(ProgressObserver(), halts))
    server = server_of(orch, AgentKind(command=[str(scene.bin / "lives")]))
    task = orch.create_task("See").id

    async def listen(number, _total, message):
        messages.append((number, message))
        if sum("still" in each for _, each in messages) > 3:
            halts.go.set()

    async def talk():
        async with Client(server, mode="legacy") as client:
            how = {"task_id": task, "agent_type": "b", "prompt": "p"}
            await client.call_tool("deploy_headless_agent", how, progress_callback=listen)

    asyncio.run(talk())

    numbers = [number for number, _ in messages]
    assert sorted(set(numbers)) == numbers
    assert messages[0][1].startswith("deploying")
    assert any("write_prompt done" in message for _, message in messages)
    assert 3 < sum("still deploying" in message for _, message in messages)


def test_concurrent_calls_all_succeed(scene):
    """Eight clients share one orchestrator."""
    orch = scene.orchestrator()
    server = server_of(orch, AgentKind(command=[str(scene.bin / "lives")]))
    task = orch.create_task("See").id

    async def one(number):
        async with Client(server) as client:
            how = {"task_id": task, "agent_type": f"c{number}", "prompt": "p"}
            made = (await client.call_tool("deploy_headless_agent", how)).structured_content
            me = {"task_id": task, "agent_id": made["agent_id"]}
            for percent in range(10, 60, 10):
                await client.call_tool(
                    "update_agent_progress", {**me, "status": "working", "progress": percent}
                )
            killed = await client.call_tool("kill_real_agent", me)
            return killed.structured_content["cleanup"]["success"]

    async def talk():
        return await asyncio.gather(*map(one, range(8)))

    assert [True] * 8 == asyncio.run(talk())
    assert {(50, "terminated")} == {(agent.progress, agent.status) for agent in orch.agents()}
    assert [] == scene.world.leftovers()


# --- the program of the agents -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "configured", "argv"),
    [
        (["claude -p 'two words'"], {}, ("claude", "-p", "two words")),
        (
            ["claude", "-p", "two words"],
            {"agent_command": ("x",)},
            ("claude", "-p", "two words"),
        ),
        ([], {"agent_command": ("a b", "c")}, ("a b", "c")),
    ],
)
def test_the_command_line_sets_the_agents_command_before_the_settings(options, configured, argv):
    assert argv == kind_from(settings.Mcp(**configured), command=options).command


def test_a_preset_sets_the_command_and_the_server_the_rest():
    """The type, the prompt, the deadline and the directory come from the server."""
    kind = kind_from(settings.Mcp(agent_preset="claude", deadline_s=60))

    spec = kind.spec(kind="reviewer", prompt="p", parent="orchestrator", cwd="/")

    assert "claude" == spec.command[0]
    assert ("reviewer", "p", 60, "/") == (spec.type, spec.prompt, spec.deadline_s, spec.cwd)


@pytest.mark.parametrize(
    "how",
    [
        {"command": ["a"], "preset": "claude"},
        {"preset": "shell"},  # The preset would run the prompt, which a model wrote.
        {"preset": "mro"},
        {"command": "claude -p"},
    ],
)
def test_an_invalid_agent_command_is_refused(how, scene):
    with pytest.raises(InvalidInput):
        register_tools(MCPServer("a server"), scene.orchestrator(), **how)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--port", "1"], "--http"),
        (["--agent-command", "sh -c 'unfinished"], "quoted wrongly"),
        (["--agent-preset", "shell"], "no preset 'shell'"),
        (["--http", "--port", "70000"], "is not in the range"),
    ],
)
def test_a_server_with_invalid_options_does_not_start(scene, arguments, expected, capsys):
    """The exit code is 2, and standard output is empty."""
    scene.orchestrator()

    assert 2 == cli.main(["--root", str(scene.root), "mcp", *arguments])

    out, err = capsys.readouterr()
    assert "" == out
    assert expected in err
    assert "hint: " in err


def test_without_the_sdk_the_error_names_the_extra(scene):
    """The hint is the command that installs it."""
    program = f"""
import sys
sys.modules["mcp"] = None
from orchestrator_core.cli import main
sys.exit(main(["--root", {str(scene.root)!r}, "mcp"]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert 1 == ran.returncode
    assert "hint: pip install 'orchestrator-core[mcp]'" in ran.stderr


# --- output --------------------------------------------------------------------------------------

TEXT = 'one\n{"two": 2}\nthree \u2028 still three\n[4]\nfive'


@pytest.fixture
def sliced(scene, deployed):
    """Let the agent write a text, and slice it as a query asks."""

    def slice_text(text, **wish):
        log = next(scene.root.glob("TASK-*/logs/*_stream.jsonl"))
        log.write_text(text)
        return slice_output(scene.orchestrator(), deployed[1], OutputQuery(**wish))

    return slice_text


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, TEXT),
        ({"tail": 2}, "[4]\nfive"),
        ({"tail": 0}, ""),
        ({"filter": "t.*e"}, "three \u2028 still three\n"),
        ({"filter": "o", "tail": 1}, '{"two": 2}\n'),
        ({"format": "jsonl"}, '{"two": 2}\n[4]\n'),
        ({"format": "parsed"}, [{"two": 2}, [4]]),
        ({"format": "parsed", "tail": 1}, [[4]]),
        ({"max_bytes": 8}, "[4]\nfive"),
        ({"max_bytes": 7}, "five"),
        ({"max_bytes": 0}, ""),
        ({"offset": 4, "max_bytes": 12}, '{"two": 2}\n'),
        ({"offset": 4, "max_bytes": 12, "format": "parsed"}, [{"two": 2}]),
        ({"offset": 0, "filter": "n"}, "one\n"),
    ],
)
def test_an_output_is_sliced_as_the_query_asks(wish, expected, sliced):
    """The result has whole lines, the last ones; only a newline ends a line."""
    assert expected == sliced(TEXT, **wish).output


@pytest.mark.parametrize(
    ("wish", "truncated"),
    [
        ({}, False),
        ({"tail": 2}, False),
        ({"max_bytes": 7}, True),
        ({"max_bytes": 7, "tail": 1}, False),
        ({"max_bytes": 7, "tail": 2}, True),
        ({"offset": 0, "max_bytes": 7}, True),
        ({"offset": 4}, False),
        ({"filter": "o"}, False),
        ({"filter": "o", "max_bytes": 12}, True),
        ({"format": "jsonl", "max_bytes": 4}, True),
    ],
)
def test_a_slice_that_lacks_something_is_truncated(wish, truncated, sliced):
    assert truncated == sliced(TEXT, **wish).truncated


def test_a_slice_is_bounded_without_a_wish(sliced):
    """A model's context has room for no more."""
    found = sliced("x" * 99 + "\n" + ("y" * 99 + "\n") * 10_000)

    assert 40_000 < len(found.output) <= output_slice.DEFAULT_MAX_BYTES
    assert found.truncated
    assert found.output.endswith("y" * 99 + "\n")


def test_json_is_found_behind_many_other_lines(sliced):
    found = sliced('{"n": 1}\n' + "no JSON\n" * 50_000, format="parsed", tail=1)

    assert [{"n": 1}] == found.output
    assert not found.truncated


def test_a_shorter_output_has_fewer_lines_and_shorter_ones(sliced):
    text = "".join(f"{number} {'x' * 600}\n" for number in range(100))

    for response, lines, length in (("summary", 20, 500), ("compact", 5, 200)):
        shown = sliced(text, response=response).output.splitlines()
        assert lines == len(shown)
        assert {length + 1} == set(map(len, shown))
        assert shown[-1].startswith("99 ")


@pytest.mark.parametrize("form", ["text", "jsonl", "parsed"])
@pytest.mark.parametrize("response", ["summary", "compact"])
def test_a_shorter_line_of_json_is_json(sliced, form, response):
    """Its long texts and lists are cut, and not the line."""
    long = {"type": "tool", "text": "é" * 900, "list": [{"a": "b" * 900}] * 30, "n": 7}

    output = sliced(f"{json.dumps(long)}\n", format=form, response=response).output

    [value] = output if form == "parsed" else [json.loads(output)]
    assert long.keys() == value.keys()
    assert ("tool", 7) == (value["type"], value["n"])
    assert value["text"].endswith("é…")
    assert value["list"][-1].endswith(" more")
    assert 9_000 > len(json.dumps(value))


def test_the_metadata_counts_the_whole_output_and_the_part(asked, sliced, deployed):
    lines = [
        {"timestamp": "2026-01-01", "n": "a"},
        {"n": "b"},
        {"timestamp": "2026-01-02", "n": "a"},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    sliced(text)
    how = {"task_id": deployed[0], "agent_id": deployed[1], "include_metadata": True}

    [all_of_it, part] = asked(
        ("get_agent_output", how), ("get_agent_output", {**how, "filter": '"a"', "tail": 1})
    )

    counted = values_of(part)["metadata"]
    path = counted.pop("file_path")
    assert path.endswith("_stream.jsonl")
    assert {
        "total_lines": 3,
        "total_bytes": len(text),
        "file_size_bytes": len(text),
        "matching_lines": 2,
        "returned_lines": 1,
        "truncated": True,
        "log_source": "jsonl_log",
        "first_timestamp": "2026-01-02",
        "last_timestamp": "2026-01-02",
    } == counted
    counted = values_of(all_of_it)["metadata"]
    assert ("2026-01-01", "2026-01-02") == (counted["first_timestamp"], counted["last_timestamp"])


def test_a_tail_of_0_is_no_tail(asked, sliced, deployed):
    """As in the system that this library replaces."""
    sliced(TEXT)
    how = {"task_id": deployed[0], "agent_id": deployed[1], "tail": 0}

    assert TEXT == values_of(asked(("get_agent_output", how))[0])["output"]


def test_the_pages_of_an_output_follow_one_another(asked, sliced, deployed):
    sliced(TEXT)
    me = {"task_id": deployed[0], "agent_id": deployed[1], "max_bytes": 12}
    pages, offset = [], 0
    while offset < len(TEXT.encode()):
        [page] = asked(("get_agent_output", {**me, "offset": offset}))
        pages.append(values_of(page)["output"])
        offset = values_of(page)["next_offset"]

    assert TEXT == "".join(pages)


def test_an_output_is_sent_once(asked, sliced, deployed):
    sliced("a line like no other\n")
    [result] = asked(("get_agent_output", {"task_id": deployed[0], "agent_id": deployed[1]}))

    assert 1 == str(result).count("a line like no other")


def test_the_match_of_an_exponential_pattern_is_stopped(monkeypatch, sliced):
    """Another process matches it, so the rest of the server goes on."""
    monkeypatch.setattr(output_slice, "_MATCH_TIMEOUT_S", 0.2)

    with pytest.raises(WaitTimeout, match="not matched within"):
        sliced("a" * 60 + "b\n", filter="(a+)+$")


def test_a_filter_that_ends_early_leaves_no_thread(sliced):
    """The matcher is gone before it has read everything."""
    before = threading.active_count()
    with pytest.raises(InvalidInput, match="is no pattern"):
        sliced("x" * 1_000_000, filter="(")

    assert before == threading.active_count()


# --- the token -----------------------------------------------------------------------------------


def test_a_missing_token_is_created_once_for_concurrent_callers(tmp_path):
    path, seen = tmp_path / "token", []
    makers = [
        threading.Thread(target=lambda: seen.append(read_or_create_token(path))) for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()

    assert 1 == len(set(seen))
    assert 8 == len(seen)
    assert 0o600 == path.stat().st_mode & 0o777
    assert ["token"] == [each.name for each in tmp_path.iterdir()]


def test_each_start_has_its_own_token(tmp_path):
    """What a stranger got from a client before opens nothing later."""
    program = """
import sys
from pathlib import Path
from orchestrator_core.mcp.token import replace_token
print(replace_token(Path(sys.argv[1])), flush=True)
input()
"""
    path = tmp_path / "token"
    path.write_text("a longer token of a server of an older release" * 2)
    path.chmod(0o600)
    seen = []
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            seen.append(server.stdout.readline().strip())
            assert seen[-1] == path.read_text().strip()
            assert 0o600 == path.stat().st_mode & 0o777
            with pytest.raises(InvalidInput, match="another server"):
                replace_token(path)
            server.communicate("\n")

    assert 2 == len(set(seen))


def test_an_invalid_token_or_one_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "token"
    for text, mode in (("x" * 40, 0o644), ("short", 0o600), ("", 0o600), ("é" * 40, 0o600)):
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(StorageError) as refused:
            read_or_create_token(path)
        assert refused.value.hint
