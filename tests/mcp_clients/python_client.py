"""
Call tools with the client of the package mcp, version 1 or 2, or of fastmcp, and print the answers.

    python_client.py mcp|fastmcp CALLS.json COMMAND...

CALLS holds pairs of a tool and its arguments. ``$task`` and ``$agent`` in them are the ids in the
answers before. An answer is printed as JSON, one a line: its text, or what the client raises.
"""

import asyncio
import json
import re
import sys
import warnings

warnings.simplefilter("ignore")


def fill(arguments, seen):
    """Return the arguments with the ids of the answers before."""
    text = json.dumps(arguments)
    for word, pattern in (("$task", r"TASK-[\w-]+"), ("$agent", r'"agent_id": ?"([\w-]+)')):
        found = re.findall(pattern, seen)
        if found:
            text = text.replace(word, found[-1])
    return json.loads(text)


async def talk(call, calls):
    seen = ""
    for tool, arguments in calls:
        try:
            result = await call(tool, fill(arguments, seen))
            text = "\n".join(block.text for block in result.content)
            is_error = getattr(result, "is_error", None) or getattr(result, "isError", False)
            values = getattr(result, "structured_content", None)
            values = values or getattr(result, "structuredContent", None)
            answer = {"text": text, "error": bool(is_error), "values": values}
            seen += text
        except Exception as error:
            answer = {"raises": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), flush=True)


async def main(kind, calls, command):
    if kind == "fastmcp":
        from fastmcp import Client
        from fastmcp.client.transports import StdioTransport

        async with Client(StdioTransport(command[0], command[1:])) as client:
            await client.list_tools()
            await talk(lambda *what: client.call_tool(*what, raise_on_error=False), calls)
        return
    try:
        from mcp import Client, StdioServerParameters

        server = StdioServerParameters(command=command[0], args=command[1:])
        async with Client(server) as client:
            await client.list_tools()
            await talk(client.call_tool, calls)
    except ImportError:
        from mcp import ClientSession, StdioServerParameters
        from mcp.client.stdio import stdio_client

        server = StdioServerParameters(command=command[0], args=command[1:])
        async with stdio_client(server) as streams, ClientSession(*streams) as client:
            await client.initialize()
            await client.list_tools()
            await talk(client.call_tool, calls)


with open(sys.argv[2]) as file:
    asyncio.run(main(sys.argv[1], json.load(file), sys.argv[3:]))
