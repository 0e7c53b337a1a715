"""
The tools in the SDK's low-level ``Server``, of version 1 or 2.

The server's own tools stay: a listing has both, and a call of another name goes to the
handler that was there before.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from mcp import types

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.mcp.progress import ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orchestrator_core.mcp.definitions import ToolDefinition

#: In the ASGI scope of a request: an event that is set when its client goes away.
ABANDONED = "orchestrator_core.abandoned"

#: The names that were added here. A server does not know the names of its own handlers.
_names: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def tool_names(server: Any) -> set[str]:
    """Return the names of the tools that this module has added."""
    return _names.get(server, set())


def add(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    """Add the tools."""
    _names.setdefault(server, set()).update(each.name for each in definitions)
    if hasattr(server, "add_request_handler"):
        _add_to_version_2(server, definitions)
    else:
        _add_to_version_1(server, definitions)


def wire_tools(definitions: Sequence[ToolDefinition]) -> list[types.Tool]:
    """Return the tools in the SDK's type."""
    return [types.Tool.model_validate(each.to_wire()) for each in definitions]


def _merged(own: Sequence[types.Tool], others: Sequence[types.Tool]) -> list[types.Tool]:
    """
    Return both lists.

    Raises:
        InvalidInput: A name is in both.
    """
    clash = {each.name for each in own} & {each.name for each in others}
    if clash:
        raise InvalidInput(
            f"the server's own tools have these names, too: {', '.join(sorted(clash))}",
            hint="give register_tools a prefix",
        )
    return [*others, *own]


# --- version 2 -----------------------------------------------------------------------------------


def _add_to_version_2(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    listing = server.get_request_handler("tools/list")
    calling = server.get_request_handler("tools/call")
    own = wire_tools(definitions)
    by_name = {each.name: each for each in definitions}

    async def list_tools(ctx: Any, params: Any) -> Any:
        if listing is None:
            return types.ListToolsResult(tools=own)
        result = await listing.handler(ctx, params)
        is_last = getattr(result, "next_cursor", None) is None
        tools = _merged(own, result.tools) if is_last else result.tools
        return result.model_copy(update={"tools": tools})

    async def call_tool(ctx: Any, params: Any) -> Any:
        definition = by_name.get(params.name)
        if definition is not None:
            answer = await definition.call(params.arguments, call_of_version_2(ctx))
            return types.CallToolResult.model_validate(answer.to_wire())
        if calling is not None:
            return await calling.handler(ctx, params)
        return unknown_tool(params.name)

    server.add_request_handler("tools/list", types.PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", types.CallToolRequestParams, call_tool)


def call_of_version_2(ctx: Any) -> ToolCall:
    """Return the call of a request of the SDK's version 2."""

    async def notify(number: float, message: str) -> None:
        await ctx.session.report_progress(number, message=message)

    is_wanted = ctx.meta is not None and "progress_token" in ctx.meta
    return ToolCall(notify=notify if is_wanted else None, abandoned=_abandoned(ctx.request))


def _abandoned(request: Any) -> Any:
    return getattr(request, "scope", {}).get(ABANDONED)


def unknown_tool(name: str) -> types.CallToolResult:
    """Return the answer to a call of a tool that does not exist."""
    content = [{"type": "text", "text": f"there is no tool {name!r:.80}"}]
    return types.CallToolResult.model_validate({"content": content, "isError": True})


# --- version 1 -----------------------------------------------------------------------------------


def _add_to_version_1(server: Any, definitions: Sequence[ToolDefinition]) -> None:
    v1: Any = types  # Its names of version 1, which the type checker does not see.
    handlers: dict[Any, Callable[[Any], Awaitable[Any]]] = server.request_handlers
    listing = handlers.get(v1.ListToolsRequest)
    calling = handlers.get(v1.CallToolRequest)
    own = wire_tools(definitions)
    by_name = {each.name: each for each in definitions}

    async def list_tools(request: Any) -> Any:
        if listing is None:
            return v1.ServerResult(types.ListToolsResult(tools=own))
        result = (await listing(request)).root
        tools = _merged(own, result.tools) if result.nextCursor is None else result.tools
        return v1.ServerResult(result.model_copy(update={"tools": tools}))

    async def call_tool(request: Any) -> Any:
        definition = by_name.get(request.params.name)
        if definition is not None:
            call = call_of_version_1(server.request_context)
            answer = await definition.call(request.params.arguments, call)
            return v1.ServerResult(types.CallToolResult.model_validate(answer.to_wire()))
        if calling is not None:
            return await calling(request)
        return v1.ServerResult(unknown_tool(request.params.name))

    handlers[v1.ListToolsRequest] = list_tools
    handlers[v1.CallToolRequest] = call_tool


def call_of_version_1(ctx: Any) -> ToolCall:
    """Return the call of a request of the SDK's version 1."""
    token = getattr(ctx.meta, "progressToken", None)

    async def notify(number: float, message: str) -> None:
        await ctx.session.send_progress_notification(
            token, number, message=message, related_request_id=str(ctx.request_id)
        )

    return ToolCall(
        notify=None if token is None else notify,
        abandoned=_abandoned(getattr(ctx, "request", None)),
    )
