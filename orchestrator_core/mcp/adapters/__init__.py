"""
Adapters: the tools in servers of different SDKs.

| server | module |
|---|---|
| ``FastMCP`` of the package fastmcp, versions 2, 3 and 4 | ``fastmcp_server`` |
| ``FastMCP`` of the SDK's version 1, ``MCPServer`` of its version 2 | ``sdk_server`` |
| the low-level ``Server`` of the SDK's versions 1 and 2 | ``lowlevel_server`` |

A server is recognized by the module of its class, so that no package is imported that the
server's owner does not use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.mcp.definitions import ToolDefinition

#: By the start of the name of the class's module: the adapter. The first match counts.
_ADAPTERS = {
    "fastmcp.": "fastmcp_server",
    "mcp.server.fastmcp": "sdk_server",
    "mcp.server.mcpserver": "sdk_server",
    "mcp.server.lowlevel": "lowlevel_server",
}


def add_tools(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    """
    Add the tools to a server.

    Raises:
        InvalidInput: The server is of no known kind, or has a tool of one of the names; none
            was added then.
    """
    adapter = importlib.import_module(f"{__name__}.{_adapter_of(type(server))}")
    taken = sorted({each.name for each in definitions} & adapter.tool_names(server))
    if taken:
        raise InvalidInput(
            f"the server has a tool of this name already: {', '.join(taken)}",
            hint="a second orchestrator needs a prefix: register_tools(…, prefix='second_')",
        )
    adapter.add(server, definitions)


def _adapter_of(kind: type[Any]) -> str:
    for base in kind.__mro__:
        for start, adapter in _ADAPTERS.items():
            if f"{base.__module__}.".startswith(start):
                return adapter
    raise InvalidInput(
        f"a server of the class {kind.__module__}.{kind.__qualname__} is not known",
        hint="use a server of the package mcp, or FastMCP of the package fastmcp",
    )
