"""
The library as MCP tools, in anybody's server or in one of our own.

::

    from mcp.server.mcpserver import MCPServer
    from orchestrator_core import Orchestrator
    from orchestrator_core.mcp import register_tools

    server = MCPServer("agents")
    register_tools(server, Orchestrator(), command=["claude", "-p"])
    server.run()

The tools have the names, parameters and results that people's agents know. What an
agent runs is the server's to say, here or in ``orchestrator.toml``, and never a
model's. ``orchestrator-core mcp`` is such a server, ready made.

It needs the extra ``mcp``: ``pip install 'orchestrator-core[mcp]'``.
"""

from __future__ import annotations

try:
    import mcp.server.mcpserver  # noqa: F401 - to say early, and in our words, that it is not there
except ImportError as error:
    from orchestrator_core.exceptions import OrchestratorError

    class McpMissing(OrchestratorError, ImportError):
        """The extra ``mcp`` is not installed."""

        code = "mcp-missing"
        default_hint = "pip install 'orchestrator-core[mcp]'"

    raise McpMissing(f"there is no MCP SDK of version 2 here: {error}") from error

from orchestrator_core.mcp.agent_kind import AgentKind
from orchestrator_core.mcp.progress import ProgressObserver
from orchestrator_core.mcp.tools import register_tools
from orchestrator_core.system.deprecation import renamed

__all__ = ["AgentKind", "ProgressObserver", "register_tools"]

__getattr__ = renamed(__name__, {"StepsTold": "ProgressObserver"})
