"""
An MCP server with tools of your own and the library's tools.

::

    python examples/mcp_server.py [AGENT ARGUMENT…]

The server's user chooses the agents' command here; a model never does.
"""

import sys

from mcp.server.mcpserver import MCPServer

from orchestrator_core import Orchestrator
from orchestrator_core.mcp import ProgressObserver, register_tools

# The constructor recovers what an earlier server, killed by its client, left behind.
orch = Orchestrator(observer=ProgressObserver())
server = MCPServer("my-team")


@server.tool()
def how_many_agents() -> int:
    """Return how many agents are alive."""
    return len(orch.agents(status="active"))


register_tools(server, orch, command=sys.argv[1:] or ["claude", "-p"])

if __name__ == "__main__":
    server.run()
