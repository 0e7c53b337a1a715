"""`orchestrator-core mcp` with real clients, processes and tmux."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.parse

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from support import past
from support.mcp_wire import LONG_S, SERVER, TOP, HeldTmux, Wire

pytestmark = pytest.mark.tmux

ENV = shutil.which("env") or "env"


@pytest.fixture
def held(scene):
    return HeldTmux(scene)


@pytest.fixture
def wire(scene):
    """Start servers for a client without the SDK; none outlives the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **how):
            made = Wire(scene.root, *arguments, **how)
            stack.callback(made.close)
            return made

        yield start


CLIENT = {"name": "by hand", "version": "1"}


def over_stdio(scene, *arguments):
    """Return the parameters by which a client starts a server, with only HOME and PATH."""
    bare = ["-i", "HOME=/", f"PATH={os.environ['PATH']}"]
    server = [*SERVER, "--root", str(scene.root), "mcp", *arguments]
    return StdioServerParameters(command=ENV, args=[*bare, *server], cwd=TOP)


async def call(client, tool, **arguments):
    """Call a tool, and return what it returns; an error is a failure."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    values = result.structured_content or json.loads(result.content[0].text)
    assert values["success"]
    return values


# --- a whole life --------------------------------------------------------------------------------


async def a_life(client, scene, *, listen=None):
    """Take an agent through its whole life by tools alone."""
    task = await call(client, "create_real_task", description="See", client_cwd=str(scene.work))
    task_id = task["task_id"]
    prompt = {"task_id": task_id, "agent_type": "worker", "prompt": "hello from far away"}
    deployed = await client.call_tool("deploy_headless_agent", prompt, progress_callback=listen)
    agent_id = deployed.structured_content["agent_id"]
    mine = {"task_id": task_id, "agent_id": agent_id}
    child = await call(
        client,
        "spawn_child_agent",
        task_id=task_id,
        parent_agent_id=agent_id,
        child_agent_type="helper",
        child_prompt="help",
    )
    assert {f"agent_{agent_id}", child["tmux_session"]} == set(scene.world.sessions())
    await call(client, "update_agent_progress", **mine, status="working", progress=50)
    await call(
        client,
        "report_agent_finding",
        **mine,
        finding_type="issue",
        severity="high",
        message="a leak",
    )
    status = await call(client, "get_real_task_status", task_id=task_id)
    assert 2 == status["agents"]["active"]
    assert [agent_id] == status["hierarchy"]["orchestrator"]
    assert [child["agent_id"]] == status["hierarchy"][agent_id]
    assert ["a leak"] == [f["message"] for f in status["enhanced_progress"]["recent_findings"]]
    scene.follow(log_of(scene, agent_id), until=b"hello from far away")
    output = await call(client, "get_agent_output", **mine)
    assert ("running", "jsonl_log") == (output["session_status"], output["source"])
    killed = await call(client, "kill_real_agent", **mine, reason="seen enough")
    assert killed["cleanup"]["verified_no_zombies"]
    assert [child["agent_id"]] == killed["children"]
    output = await call(client, "get_agent_output", **mine)
    assert ("terminated", "archived_log") == (output["session_status"], output["source"])
    assert "hello from far away" in output["output"]
    timeline = await call(client, "get_agent_timeline", **mine)
    assert ["deployed", "progress", "finding", "ended", "given back"] == [
        event["event"] for event in timeline["events"]
    ]
    swept = await call(client, "sweep_agents")
    assert swept["clean"]


def log_of(scene, agent_id):
    [log] = scene.root.glob(f"TASK-*/logs/{agent_id}_stream.jsonl")
    return log


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_client_over_stdio_drives_a_whole_life(scene, mode):
    """In either era of the protocol, with progress of each step, and only HOME and PATH."""
    messages = []

    async def listen(progress, _total, message):
        messages.append((progress, message))

    async def live():
        server = over_stdio(scene, "--agent-command", "sh -c 'cat; sleep 1000'")
        async with Client(server, mode=mode) as client:
            await a_life(client, scene, listen=listen)

    asyncio.run(live())

    assert sorted(messages) == messages
    assert any("spawn_tmux done" in message for _, message in messages)
    assert [] == scene.world.leftovers()


@contextlib.contextmanager
def http_server(scene, *arguments, code=0):
    """Serve over HTTP on any port; yields its address and its token's file."""
    token_file = scene.root / "mcp-token"
    where = ["--http", "--port", "0"]
    process = subprocess.Popen(
        [*SERVER, "--root", str(scene.root), "mcp", *where, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=TOP,
        env={name: os.environ[name] for name in ("PATH", "XDG_CONFIG_HOME")} | {"HOME": "/"},
    )
    try:
        line = process.stderr.readline().decode()
        yield line.partition("listening on ")[2].partition(";")[0], token_file
        process.terminate()
        stdout, _ = process.communicate(timeout=LONG_S)
        assert (code, b"") == (process.returncode, stdout)
    finally:
        process.kill()
        process.communicate()


@contextlib.asynccontextmanager
async def over_http(url, token, mode="legacy"):
    how = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=how, timeout=LONG_S) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_client_over_http_drives_a_whole_life(scene, mode):
    """The server creates a token for its owner, and refuses all other requests."""

    async def live(url, token):
        async with over_http(url, token, mode) as client:
            await a_life(client, scene)

    with http_server(scene, "--agent-command", "sh -c 'cat; sleep 1000'") as (url, token_file):
        assert 0o600 == stat.S_IMODE(token_file.stat().st_mode)
        assert url.startswith("http://127.0.0.1:")
        asyncio.run(live(url, token_file.read_text().strip()))
        assert {
            "without a token": 401,
            "with another": 401,
            "with none of ASCII": 401,
            "as another host": 421,
            "from a page of another": 403,
            "as itself": 400,
        } == answers_of(url, token_file.read_text().strip())

    assert [] == scene.world.leftovers()


def answers_of(url, token):
    """Return the status of each request that must be refused, and of an empty one."""
    right = {"Authorization": f"Bearer {token}"}
    tried = {
        "without a token": {},
        "with another": {"Authorization": "Bearer " + "x" * len(token)},
        "with none of ASCII": {"Authorization": "Bearer é".encode("latin-1")},
        "as another host": right | {"Host": "evil.example"},
        "from a page of another": right | {"Origin": "http://evil.example"},
        "as itself": right,
    }
    return {
        how: httpx2.post(url, json={}, headers=headers).status_code
        for how, headers in tried.items()
    }


class RawHttp:
    """A client of the protocol of 2025 that can go away in the middle of a call."""

    def __init__(self, url, token):
        self._address = urllib.parse.urlsplit(url)
        self.headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}
        headers, _ = self.ask("initialize", id=1, **params)
        self.headers["Mcp-Session-Id"] = headers["mcp-session-id"]
        self.ask("notifications/initialized")

    def ask(self, method, **what):
        """Send a message, and return the headers and the body of the answer."""
        with contextlib.closing(self.begin(method, **what)) as connection:
            response = connection.getresponse()
            assert response.status < 300
            return response.headers, response.read()

    def begin(self, method, *, id=None, **params):  # noqa: A002 - the protocol's name
        """Send a message, and return the connection."""
        connection = http.client.HTTPConnection(self._address.netloc, timeout=LONG_S)
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        if id is not None:
            message["id"] = id
        connection.request("POST", self._address.path, json.dumps(message), self.headers)
        return connection


def test_a_client_that_closes_its_connection_in_mid_deploy_leaves_no_agent(scene):
    """No client will get that agent's id. The server goes on."""
    orch = scene.orchestrator()
    task = orch.create_task("See").id
    past.write_settings(scene.root, '[mcp]\nagent_command = ["sleep", "1000"]\ngrace_s = 2\n')
    with http_server(scene) as (url, token_file):
        client = RawHttp(url, token_file.read_text().strip())
        how = {"task_id": task, "agent_type": "b", "prompt": "p"}
        connection = client.begin("tools/call", id=2, name="deploy_headless_agent", arguments=how)
        until(scene.world.sessions, "no session is made")
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        until(lambda: not orch.agents(status="active") and orch.agents(), "the agent lives on")
        assert b"list_agents" in client.ask("tools/list", id=3)[1]

    assert ["cancelled"] == [agent.end_reason for agent in orch.agents()]
    assert [] == scene.world.leftovers()


def until(is_so, otherwise):
    deadline = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        select.select([], [], [], 0.02)


def test_whatever_is_posted_has_an_answer(scene):
    """Half an emoji is replaced, as over stdio, and what is no message is refused."""
    with http_server(scene) as (url, token_file):
        client = RawHttp(url, token_file.read_text().strip())
        _, made = client.ask(
            "tools/call", id=2, name="create_real_task", arguments={"description": "cut \ud83d"}
        )
        answers = [
            httpx2.post(url, content=body, headers=client.headers, timeout=LONG_S)
            for body in (b"no JSON", b"[1]", b'{"jsonrpc":"2.0","id":4}')
        ]

    assert "cut \ufffd" in made.decode()
    assert [400] * 3 == [answer.status_code for answer in answers]
    assert -32700 == answers[0].json()["error"]["code"]
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert ["cut \ufffd"] == [task.description for task in scene.orchestrator().tasks()]


def test_idle_connections_keep_no_client_out(scene):
    """Connections without a request are bounded, and the oldest one makes room for a new one."""
    with http_server(scene) as (url, token_file), contextlib.ExitStack() as held:
        port = urllib.parse.urlsplit(url).port
        idle = []
        for _ in range(400):
            idle.append(held.enter_context(socket.create_connection(("127.0.0.1", port))))
            idle[-1].sendall(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n")

        RawHttp(url, token_file.read_text().strip())

        idle[0].settimeout(LONG_S)
        with contextlib.suppress(ConnectionResetError):
            assert b"" == idle[0].recv(1)


def test_eight_clients_work_at_once(scene):
    """Each has its own task and agents, and none affects another."""

    async def one(url, token, number):
        async with over_http(url, token) as client:
            task = await call(client, "create_real_task", description=f"client {number}")
            about = {"task_id": task["task_id"]}
            agent = await call(
                client, "deploy_headless_agent", **about, agent_type=f"c{number}", prompt="go"
            )
            about["agent_id"] = agent["agent_id"]
            for percent in (10, 20, 30):
                await call(
                    client, "update_agent_progress", **about, status="working", progress=percent
                )
            status = await call(client, "get_real_task_status", task_id=task["task_id"])
            await call(client, "kill_real_agent", **about)
            return [(a["id"], a["progress"]) for a in status["agents"]["agents_list"]]

    async def all_of_them(url, token):
        return await asyncio.gather(*(one(url, token, number) for number in range(8)))

    with http_server(scene, "--agent-command", "sleep 1000") as (url, token_file):
        seen = asyncio.run(all_of_them(url, token_file.read_text().strip()))

    assert [30] * 8 == [progress for [(_, progress)] in seen]
    assert 8 == len(scene.world.records())
    assert {"terminated"} == {record["status"] for record in scene.world.records().values()}
    assert [] == scene.world.leftovers() + scene.world.torn()


# --- from inside ---------------------------------------------------------------------------------

_AGENT = """
import asyncio, os, sys
from mcp import Client, StdioServerParameters

server = StdioServerParameters(
    command=sys.executable,
    args=["-m", "orchestrator_core", "--root", os.environ["ORCHESTRATOR_ROOT"], "mcp"],
    cwd=os.environ["PACKAGE"],
)
me = {name: os.environ[f"ORCHESTRATOR_{name.upper()}"] for name in ("task_id", "agent_id")}

async def live():
    async with Client(server) as client:
        result = await client.call_tool(
            "update_agent_progress", {**me, "status": "completed", "message": "all done"}
        )
        print("answered:", result.structured_content, flush=True)
        os.read(0, 1)
        await asyncio.sleep(1000)

asyncio.run(live())
"""


def test_an_agent_reports_its_own_end_through_its_own_server(scene):
    """The server is a child of the agent's session; its answer comes before the session ends."""
    agent_py = scene.program("agent.py", _AGENT)
    orch = scene.orchestrator()
    task = orch.create_task("See")
    agent = orch.deploy(task.id, scene.spec(sys.executable, agent_py, env={"PACKAGE": str(TOP)}))

    end = orch.wait(agent.id, timeout_s=LONG_S)

    assert ("completed", "report", True) == (end.status, end.by, end.success)
    assert "'success': True" in orch.read_output(agent.id)
    assert "'handed_over': True" in orch.read_output(agent.id)
    assert "all done" == orch.agent(agent.id).end_reason
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers()


_FORGETFUL_AGENT = """
import asyncio, os
from mcp import Client, StdioServerParameters

async def live():
    server = StdioServerParameters(
        command=os.environ["ENV"],
        args=["-i", "HOME=/", "PATH=" + os.environ["PATH"], "orchestrator-core", "mcp"],
    )
    async with Client(server) as client:
        result = await client.call_tool(
            "update_agent_progress", {"status": "completed", "message": "all done"}
        )
        print("answered:", result.content, flush=True)
        os.read(0, 1)
        await asyncio.sleep(1000)

asyncio.run(live())
"""


def test_a_server_finds_its_agent_though_its_environment_has_lost_it(scene, tmp_path):
    """
    Some tools start their servers with HOME and PATH only, in any directory.

    The PATH leads to the command, although the deployer's did not; and a root near the working
    directory is not taken for the agent's.
    """
    agent_py = scene.program("agent.py", _FORGETFUL_AGENT)
    orch = scene.orchestrator()
    task = orch.create_task("See")
    (tmp_path / ".agent-workspace").mkdir(mode=0o700)
    env = {"ENV": ENV, "PATH": os.defpath}
    agent = orch.deploy(task.id, scene.spec(sys.executable, agent_py, env=env, cwd=str(tmp_path)))

    end = orch.wait(agent.id, timeout_s=LONG_S)

    assert ("completed", "report") == (end.status, end.by), orch.read_output(agent.id)
    assert "all done" == orch.agent(agent.id).end_reason
    assert [] == [*(tmp_path / ".agent-workspace").iterdir()]
    assert {} == scene.world.until_alone()


def test_a_command_finds_its_agent_though_its_environment_has_lost_it(scene):
    """A tool may run commands in a cleaned environment."""
    orch = scene.orchestrator()
    task = orch.create_task("See")
    report = 'env -i PATH="$PATH" orchestrator-core progress --status completed --message done'
    spec = scene.spec("sh", "-c", f"{report}; sleep 1000", env={"PATH": os.defpath})

    end = orch.wait(orch.deploy(task.id, spec).id, timeout_s=LONG_S)

    assert ("completed", "report", "done") == (end.status, end.by, end.reason)


# --- the end of a server -------------------------------------------------------------------------


def in_mid_deploy(scene, wire, held):
    """Return a server that is in the middle of a deployment, and the number of that call."""
    orch = scene.orchestrator()
    orch.terminate(orch.deploy(orch.create_task("Warm up").id, scene.spec()).id)
    # The deployer watches the agent for 1 s, in which the test acts.
    past.write_settings(scene.root, '[mcp]\nagent_command = ["sleep", "1000"]\ngrace_s = 1\n')
    server = wire(path=held.path)
    server.connect()
    task = server.call("create_real_task", description="See")
    number = server.begin(
        "deploy_headless_agent", task_id=task["task_id"], agent_type="b", prompt="p"
    )
    held.until_held()
    return server, number


def test_a_server_killed_with_its_group_in_mid_deploy_is_recovered_by_the_next_opening(
    scene, held, wire
):
    """The next server that opens the root finishes what is left."""
    server, _ = in_mid_deploy(scene, wire, held)
    server.kill_group()
    assert scene.world.files("TASK-*/agent_prompt_*")

    following = wire()
    following.connect()

    assert [] == scene.world.files("TASK-*/agent_prompt_*")
    assert ["a"] == [agent["type"] for agent in following.call("list_agents")["agents"]]
    following.hang_up()
    assert 0 == following.until_over()
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()


@pytest.mark.parametrize("how", ["the client hangs up", "SIGTERM"])
def test_a_server_that_stops_in_mid_deploy_undoes_the_deployment(how, scene, held, wire):
    """No client will get that agent's id, so the agent must not live."""
    server, _ = in_mid_deploy(scene, wire, held)
    if how == "SIGTERM":
        server.process.send_signal(signal.SIGTERM)
    else:
        server.hang_up()
    held.let_go()

    assert 0 == server.until_over()

    assert [("terminated", "cancelled")] == [
        (record["status"], record["termination_reason"])
        for record in scene.world.records().values()
        if record["type"] == "b"
    ]
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_cancelled_call_is_undone_and_the_server_goes_on(scene, held, wire):
    """The call gets no answer, other calls do, and nothing of it is left."""
    server, number = in_mid_deploy(scene, wire, held)
    server.cancel(number)
    server.call("list_agents")  # The server reads the cancellation first.
    held.let_go()

    server.hang_up()
    assert 0 == server.until_over()

    assert number not in [line.get("id") for line in server.lines]
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_server_ends_at_sigterm_and_writes_nothing_but_the_protocol(wire):
    """The exit status is 0. The standard output is JSON only, although the server logs."""
    server = wire("--agent-command", "sleep 1000", options=["--verbose"])
    assert "orchestrator-core" == server.connect()["serverInfo"]["name"]
    server.call("create_real_task", description="See")

    server.process.send_signal(signal.SIGTERM)

    assert 0 == server.until_over()


@pytest.mark.parametrize("more", [0, 3])
def test_a_server_ends_at_sigterm_although_its_client_does_not_read(wire, more):
    """
    Its answers are larger than the pipe, and it waits for the client for a bounded time.

    A request that the SDK answers before it reads the next one stops the reading as well.
    """
    server = wire("--agent-command", "sleep 1000")
    server.connect()
    # One answer is larger than the pipe, so only a part of it can be read.
    fcntl.fcntl(server.process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    server.ask("tools/list")
    assert select.select([server.process.stdout], [], [], LONG_S)[0]
    for _ in range(more):
        server.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=CLIENT)
    server.until_read()

    server.process.send_signal(signal.SIGTERM)

    assert 0 == server.process.wait(timeout=60)


# --- whatever a client writes --------------------------------------------------------------------

#: A line, the id of its answer, and the code of the answer's error; None for a result.
LINES = [
    (b"no JSON", None, -32700),
    (b"\xff\xfe", None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"', None, -32700),
    (b"[" * 100_000, None, -32700),
    (b'{"jsonrpc":"2.0","id":2,"method":"ping","params":{"a":NaN}}', None, -32700),
    (b'[{"jsonrpc":"2.0","id":3,"method":"ping"}]', None, -32600),
    (b"17", None, -32600),
    (b'{"jsonrpc":"2.0","id":4}', 4, -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":[5],"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":6,"method":"ping","params":[1]}', 6, -32600),
    (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', 7, -32600),
    (b'{"jsonrpc":"2.0","id":8,"method":9}', 8, -32600),
    (b'{"jsonrpc":"2.0","id":"half \\ud83d","method":"ping"}', "half \ufffd", None),
    (b'{"jsonrpc":"2.0","id":10,"method":"ping","params":{"x":"\\udc00"}}', 10, None),
    (b'{"jsonrpc":"2.0","id":11,"method":"ping"}', 11, None),
]


def test_every_line_that_a_client_writes_has_an_answer(wire):
    """A message that is refused is not dropped: its client would wait for ever."""
    server = wire()
    server.connect()

    for line, number, code in LINES:
        server.send(line)
        answer = server.answer(number)
        assert code == answer.get("error", {}).get("code"), (line[:80], answer)


def test_a_call_with_half_an_emoji_has_an_answer(scene, wire):
    server = wire()
    server.connect()

    made = server.call("create_real_task", description="cut \ud83d")

    assert "cut \ufffd" == made["description"]
    assert ["cut \ufffd"] == [task.description for task in scene.orchestrator().tasks()]


# --- the example ---------------------------------------------------------------------------------


def test_the_example_serves_its_own_tool_beside_the_librarys(scene):
    """The example's tool counts the agents that the library's tools deploy."""
    example = [str(TOP / "examples" / "mcp_server.py"), "sleep", "1000"]
    server = StdioServerParameters(
        command=sys.executable,
        args=example,
        cwd=scene.work,
        env={"PYTHONPATH": str(TOP), "ORCHESTRATOR_ROOT": str(scene.root)},
    )

    async def live():
        async with Client(server) as client:
            task = await call(client, "create_real_task", description="See")
            how = {"task_id": task["task_id"], "agent_type": "b", "prompt": "p"}
            agent = await call(client, "deploy_headless_agent", **how)
            counted = await client.call_tool("how_many_agents", {})
            mine = {"task_id": task["task_id"], "agent_id": agent["agent_id"]}
            await call(client, "kill_real_agent", **mine)
            return counted.structured_content["result"]

    assert 1 == asyncio.run(live())
    assert [] == scene.world.leftovers()
