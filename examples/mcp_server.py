"""
An MCP server with tools of one's own, and the library's beside them.

::

    python examples/mcp_server.py [AGENT ARGUMENT…]

What its agents run is said here, by whoever runs the server: never by a model.
"""

import sys

from mcp.server.mcpserver import MCPServer

from orchestrator_core import Orchestrator
from orchestrator_core.mcp import ProgressObserver, register_tools

# Opening it recovers whatever an earlier server, killed by its client, has left.
orch = Orchestrator(observer=ProgressObserver())
server = MCPServer("my-team")


@server.tool()
def how_many_agents() -> int:
    """Count the agents that are alive."""
    return len(orch.agents(status="active"))


register_tools(server, orch, command=sys.argv[1:] or ["claude", "-p"])

if __name__ == "__main__":
    server.run()
