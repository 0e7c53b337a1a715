"""
Add the tools to a server of each kind that is installed here, and call them in the process.

    servers.py      (with the Python of one of the clients, and the package in its path)

Prints a line for each kind, and fails at the first thing that is wrong.
"""

import asyncio
import sys
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

warnings.simplefilter("ignore")

from orchestrator_core import InvalidInput, Orchestrator  # noqa: E402
from orchestrator_core.mcp import ProgressObserver, register_tools  # noqa: E402


def fastmcp():
    from fastmcp import Client, FastMCP

    server = FastMCP("a server")
    server.tool(mine)
    return server, Client(server)


def high_level():
    try:
        from mcp.server.mcpserver import MCPServer as HighLevel
    except ImportError:
        from mcp.server.fastmcp import FastMCP as HighLevel
    server = HighLevel("a server")
    server.add_tool(mine)
    return server, client_of(server)


def low_level():
    from mcp import types
    from mcp.server.lowlevel import Server

    own = types.Tool.model_validate({"name": "mine", "inputSchema": {"type": "object"}})
    text = types.TextContent(type="text", text="mine of its owner")
    if hasattr(Server, "add_request_handler"):

        async def listing(_ctx, _params):
            return types.ListToolsResult(tools=[own])

        async def calling(_ctx, _params):
            return types.CallToolResult(content=[text])

        server = Server("a server", on_list_tools=listing, on_call_tool=calling)
        return server, client_of(server)
    server = Server("a server")

    @server.list_tools()
    async def listing_v1():
        return [own]

    @server.call_tool()
    async def calling_v1(_name, _arguments):
        return [text]

    return server, client_of(server)


def mine() -> str:
    """A tool of the server's owner."""
    return "mine of its owner"


def client_of(server):
    try:
        from mcp import Client
    except ImportError:
        from mcp.shared.memory import create_connected_server_and_client_session

        return create_connected_server_and_client_session(server)
    return Client(server)


def hint_of_clash(server, orchestrator):
    try:
        register_tools(server, orchestrator)
    except InvalidInput as error:
        return error.hint
    return ""


async def try_out(server, client, place):
    first = Orchestrator(place / "first", observer=ProgressObserver())
    second = Orchestrator(place / "second")
    register_tools(server, first, command=["sleep", "1000"])
    assert "prefix" in hint_of_clash(server, second), "a clash of names is not seen"
    register_tools(server, second, prefix="second_", only=["create_real_task"])
    async with client as session:
        is_fastmcp = type(session).__module__.startswith("fastmcp.")
        tools = await session.list_tools()
        names = {tool.name for tool in getattr(tools, "tools", tools)}
        assert {"mine", "create_real_task", "second_create_real_task"} <= names, names

        async def call(tool, **arguments):
            how = {"raise_on_error": False} if is_fastmcp else {}
            result = await session.call_tool(tool, arguments, **how)
            values = getattr(result, "structured_content", None)
            values = values or getattr(result, "structuredContent", None)
            is_error = getattr(result, "is_error", None) or getattr(result, "isError", False)
            return bool(is_error), result.content[0].text, values

        assert (False, "mine of its owner") == (await call("mine"))[:2]
        is_error, text, values = await call("get_real_task_status", task_id="TASK-none")
        assert is_error, text
        assert text.startswith("there is no task 'TASK-none'"), text
        assert "not-found" == values["code"], values
        _, _, task = await call("create_real_task", description="See")
        about = {"task_id": task["task_id"]}
        _, _, agent = await call("deploy_headless_agent", **about, agent_type="a", prompt="go")
        about["agent_id"] = agent["agent_id"]
        assert not (await call("get_agent_output", **about))[0]
        is_error, text, killed = await call("kill_real_agent", **about)
        assert (False, "terminated") == (is_error, killed["status"]), text
        await call("second_create_real_task", description="See")
    assert [1, 1] == [len(first.tasks()), len(second.tasks())]


def main():
    packages = []
    for name in ("fastmcp", "mcp"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    kinds = [high_level, low_level, *([fastmcp] if packages[0].startswith("fastmcp") else [])]
    for kind in kinds:
        with tempfile.TemporaryDirectory() as place:
            server, client = kind()
            asyncio.run(try_out(server, client, Path(place)))
        print(f"{kind.__name__} of {', '.join(packages)}: right", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
