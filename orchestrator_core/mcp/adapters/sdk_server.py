"""
The tools in the SDK's ``FastMCP``, of version 1, or ``MCPServer``, of version 2.

Both keep their tools in a tool manager. A tool is added there as an object of the SDK's own
class, and not by ``add_tool``, which derives schemas from a function, validates arguments in
its own words, and ignores a second tool of the same name.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from mcp import types
from pydantic import PrivateAttr

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp.adapters.lowlevel_server import call_of_version_1, call_of_version_2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.mcp.definitions import ToolDefinition


def tool_names(server: Any) -> set[str]:
    """Return the names of the server's tools."""
    return set(_tools(server))


def add(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    """Add the tools."""
    tools = _tools(server)
    for definition in definitions:
        tools[definition.name] = _tool_class().describing(definition)


def _tools(server: Any) -> dict[str, Any]:
    tools = getattr(getattr(server, "_tool_manager", None), "_tools", None)
    if not isinstance(tools, dict):
        raise InvalidInput(
            f"this release of the MCP SDK keeps the tools of {type(server).__name__} elsewhere",
            hint="use the SDK's low-level Server, or a release of the SDK before it",
        )
    return tools


@functools.cache
def _tool_class() -> Any:
    try:
        from mcp.server.mcpserver.tools import Tool as SdkTool  # noqa: PLC0415 - version 2

        call_of = call_of_version_2
    except ImportError:
        from mcp.server.fastmcp.tools import Tool as SdkTool  # type: ignore[import-not-found, no-redef]  # noqa: PLC0415 - version 1

        call_of = call_of_version_1

    class DescribedTool(SdkTool):
        _definition: ToolDefinition = PrivateAttr()

        @classmethod
        def describing(cls, definition: ToolDefinition) -> DescribedTool:
            tool: Any = cls.from_function(
                _placeholder,
                name=definition.name,
                description=definition.description,
                annotations=types.ToolAnnotations.model_validate(definition.hints),
                structured_output=False,
            )
            tool.parameters = definition.input_schema
            tool.fn_metadata.output_schema = definition.output_schema
            tool._definition = definition  # noqa: SLF001 - its own class
            return cast("DescribedTool", tool)

        async def run(
            self, arguments: dict[str, Any], context: Any = None, convert_result: bool = False
        ) -> Any:
            del convert_result  # The answer is in the protocol's type already.
            answer = await self._definition.call(arguments, call_of(context.request_context))
            return types.CallToolResult.model_validate(answer.to_wire())

    return DescribedTool


async def _placeholder() -> None:
    """Do nothing: :meth:`DescribedTool.run` never calls it."""
