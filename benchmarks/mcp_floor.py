"""
The floor of a tool call: an MCP server with one tool that does nothing.

    python mcp_floor.py

Whatever a call costs beyond it, and beyond what it does in the library, is ours.
"""

from mcp.server.mcpserver import MCPServer

server = MCPServer("floor", log_level="ERROR")


@server.tool()
async def nothing() -> dict[str, bool]:
    """Do nothing."""
    return {"success": True}


if __name__ == "__main__":
    server.run()
