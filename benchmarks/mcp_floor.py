"""
The floor of a tool call: an MCP server with one tool that does nothing.

    python mcp_floor.py

The cost of a call beyond this and beyond the library's call is the adapter's.
"""

from mcp.server.mcpserver import MCPServer

server = MCPServer("floor", log_level="ERROR")


@server.tool()
async def nothing() -> dict[str, bool]:
    """Do nothing."""
    return {"success": True}


if __name__ == "__main__":
    server.run()
