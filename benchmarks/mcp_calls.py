"""
What an MCP tool call costs over the library's call, through a real client and stdio.

    python benchmarks/mcp_calls.py [--rounds N] [DIRECTORY]

The tool, the same call of the library on the same root, and a tool that does nothing
(mcp_floor.py) take turns. The cost of the empty tool is the SDK's, and is printed beside each
figure. `list_agents` only reads, so the disk has no part in its additional cost.
"""

from __future__ import annotations

import asyncio
import os
import sys

import _figures
from _figures import HERE, Figure, median
from _rig import AGENT, PROMPT, rig
from mcp import Client, StdioServerParameters


def figures(directory: str | None = None, rounds: int = 40) -> list[Figure]:
    with rig(directory) as both:
        return asyncio.run(_measured(both, rounds))


async def _measured(both, rounds: int) -> list[Figure]:
    server_arguments = [
        "-m",
        "orchestrator_core",
        "--root",
        str(both.orch.root),
        "mcp",
        "--agent-command",
    ]
    async with (
        Client(_server([*server_arguments, " ".join(AGENT)])) as client,
        Client(_server([str(HERE / "mcp_floor.py")])) as floor,
    ):
        deploys = ([], [])
        reports, lists, nothing = ([], []), ([], []), []
        for number in range(rounds + 2):
            both.level()
            for which in (0, 1) if number % 2 else (1, 0):
                await (_deploy_by_library, _deploy_by_tool)[which](both, client, deploys[which])
        agent = both.deploy_library()
        for _ in range(rounds + 2):
            await _report_and_list(both, client, agent, reports, lists)
            nothing.append((await _timed(floor, "nothing", {}))[0])
        both.end_library(agent)
    note = f"the SDK alone: {median(nothing[2:]):.3g} ms"
    return [
        _figure("deploy_headless_agent", deploys, note, at_most=1.3),
        _figure("update_agent_progress", reports, note, at_most_more=10),
        _figure("list_agents", lists, note, at_most_more=10),
    ]


def _figure(name: str, taken, note: str, **target) -> Figure:
    library, tool = (median(each[2:]) for each in taken)
    return Figure(name=name, measured=tool, floor=library, note=note, **target)


def _server(argv: list[str]) -> StdioServerParameters:
    env = {"PYTHONPATH": str(HERE.parent), "PATH": os.environ["PATH"]}
    return StdioServerParameters(command=sys.executable, args=argv, env=env)


async def _deploy_by_library(both, _client, taken: list[float]) -> None:
    cost, agent = _figures.timed(both.deploy_library)
    taken.append(cost)
    both.end_library(agent)


async def _deploy_by_tool(both, client, taken: list[float]) -> None:
    task = both.orch.tasks()[-1]
    how = {"task_id": task.id, "agent_type": "bench", "prompt": PROMPT}
    cost, result = await _timed(client, "deploy_headless_agent", how)
    taken.append(cost)
    both.end_library(result["agent_id"])


async def _report_and_list(both, client, agent: str, reports, lists) -> None:
    task = both.orch.agent(agent).task_id
    how = {"task_id": task, "agent_id": agent, "status": "working"}
    reports[0].append(_figures.timed(both.orch.report_progress, agent, "working")[0])
    reports[1].append((await _timed(client, "update_agent_progress", how))[0])
    lists[0].append(_figures.timed(lambda: both.orch.agents(task_id=task))[0])
    lists[1].append((await _timed(client, "list_agents", {"task_id": task}))[0])


async def _timed(client, tool: str, how):
    begun = asyncio.get_running_loop().time()
    result = await client.call_tool(tool, how)
    taken = (asyncio.get_running_loop().time() - begun) * 1e3
    if result.is_error:
        raise RuntimeError(f"{tool}: {result.content}")
    return taken, result.structured_content


if __name__ == "__main__":
    _figures.main(__doc__, figures)
