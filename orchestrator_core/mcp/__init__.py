"""
The library as MCP tools, in a server of your own or in ``orchestrator-core mcp``.

::

    from mcp.server.mcpserver import MCPServer
    from orchestrator_core import Orchestrator
    from orchestrator_core.mcp import register_tools

    server = MCPServer("agents")
    register_tools(server, Orchestrator(), command=["claude", "-p"])
    server.run()

The tools have the names, parameters and results that existing agents use. The server's owner
sets the program that agents run, here or in ``orchestrator.toml``; a model cannot.

It needs the extra ``mcp``: ``pip install 'orchestrator-core[mcp]'``.
"""

from __future__ import annotations

try:
    import mcp.server.lowlevel  # noqa: F401 - a missing extra is reported here, with its remedy
except ImportError as error:
    from orchestrator_core.exceptions import OrchestratorError

    class McpMissing(OrchestratorError, ImportError):
        """The extra ``mcp`` is not installed."""

        code = "mcp-missing"
        default_hint = "pip install 'orchestrator-core[mcp]'"

    raise McpMissing(f"the MCP SDK, version 1 or 2, is not installed: {error}") from error

from orchestrator_core.mcp.agent_kind import AgentKind
from orchestrator_core.mcp.progress import ProgressObserver
from orchestrator_core.mcp.tools import register_tools
from orchestrator_core.system.deprecation import renamed

__all__ = ["AgentKind", "ProgressObserver", "register_tools"]

__getattr__ = renamed(__name__, {"StepsTold": "ProgressObserver"})
