"""The tools in the ``FastMCP`` of the package fastmcp, versions 2, 3 and 4."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mcp import types
from pydantic import PrivateAttr

from orchestrator_core.mcp.definitions import ToolAnswer
from orchestrator_core.mcp.progress import ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.mcp.definitions import ToolDefinition


def tool_names(server: Any) -> set[str]:
    """Return the names of the tools in this server, without those of mounted servers."""
    manager = getattr(server, "_tool_manager", None)  # Version 2.
    if manager is not None:
        return set(getattr(manager, "_tools", ()))
    provider = getattr(server, "_local_provider", None)
    components = getattr(provider, "_components", {}).values()
    return {each.name for each in components if hasattr(each, "parameters")}


def add(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    """Add the tools."""
    for definition in definitions:
        server.add_tool(_tool_class().describing(definition))


@functools.cache
def _tool_class() -> Any:
    from fastmcp.server.dependencies import get_context  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    from fastmcp.tools import Tool as FastmcpTool  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    class DescribedFastmcpTool(FastmcpTool):  # type: ignore[misc, unused-ignore]
        _definition: ToolDefinition = PrivateAttr()

        @classmethod
        def describing(cls, definition: ToolDefinition) -> DescribedFastmcpTool:
            tool = cls(
                name=definition.name,
                description=definition.description,
                parameters=definition.input_schema,
                output_schema=definition.output_schema,
                annotations=types.ToolAnnotations.model_validate(definition.hints),
            )
            tool._definition = definition
            return tool

        async def run(self, arguments: dict[str, Any]) -> Any:
            answer = await self._definition.call(arguments, _call_of(get_context()))
            return _result(answer)

    return DescribedFastmcpTool


def _call_of(context: Any) -> ToolCall:
    async def notify(number: float, message: str) -> None:
        await context.report_progress(number, message=message)

    return ToolCall(notify=notify)  # Without effect if the client did not ask for progress.


def _result(answer: ToolAnswer) -> Any:
    content = [types.TextContent(type="text", text=answer.text)]
    if not answer.is_error:
        return _result_class()(content=content, structured_content=answer.values)
    return _error_class()(answer)


@functools.cache
def _result_class() -> Any:
    try:
        from fastmcp.tools import ToolResult  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    except ImportError:
        from fastmcp.tools.tool import ToolResult  # type: ignore[import-not-found, no-redef, unused-ignore]  # noqa: PLC0415 - version 2

    return ToolResult


@functools.cache
def _error_class() -> Any:
    class ErrorResult(_result_class()):  # type: ignore[misc]
        def __init__(self, answer: ToolAnswer) -> None:
            super().__init__(
                content=[types.TextContent(type="text", text=answer.text)],
                structured_content=answer.values,
            )

        def to_mcp_result(self) -> types.CallToolResult:
            wire = ToolAnswer(self.content[0].text, self.structured_content, is_error=True)
            return types.CallToolResult.model_validate(wire.to_wire())

    return ErrorResult
