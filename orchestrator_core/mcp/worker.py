"""
Calls of the library out of an event loop: in worker threads, and undone if cancelled.

The library is synchronous, and safe in any number of threads. A thread cannot be
cancelled; so a call that is goes on to its own end, bounded as the library bounds it,
and what it has made is then undone before the cancellation is let through.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from mcp.types import CallToolResult, TextContent

from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.mcp.progress import news
from orchestrator_core.system.log import emit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.mcpserver import Context

T = TypeVar("T")
Self = TypeVar("Self")
P = ParamSpec("P")

_AT_ONCE = 32  #: Calls in threads. A transport may have threads of its own, which must not wait.
_LIMITER = anyio.lowlevel.RunVar[anyio.CapacityLimiter]("orchestrator_core.mcp")


async def run(
    work: Callable[[], T],
    *,
    ctx: Context | None = None,
    doing: str = "",
    undo: Callable[[T], object] | None = None,
) -> T:
    """
    Return what *work* returns, called in a thread.

    With *ctx*, the client is told that we are *doing* it. If this is cancelled, *undo*
    is called with what the work came to, and is done when the cancellation goes on.
    """
    limiter = _limiter()
    call = _Call(work, undo)
    try:
        async with news(ctx, doing):
            await anyio.to_thread.run_sync(call, limiter=limiter)
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(call.undo_when_done, limiter=limiter)
        raise
    return call.result()


class _Call(Generic[T]):
    """One call in a thread; nobody wants what it comes to any more when it is disowned."""

    def __init__(self, work: Callable[[], T], undo: Callable[[T], object] | None) -> None:
        self._work = work
        self._undo = undo
        self._begun = False
        self._over = threading.Event()
        self._error: Exception | None = None
        self._result: list[T] = []

    def __call__(self) -> None:
        self._begun = True
        try:
            self._result = [self._work()]
        except Exception as error:  # noqa: BLE001 - raised again by result, to whom it concerns
            self._error = error
        finally:
            self._over.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]

    def undo_when_done(self) -> None:
        """Wait for it to be over, and undo it."""
        if not self._begun or self._undo is None:
            return
        # A thread that nobody waits for: asyncio's own cancellation passes every shield.
        self._over.wait()
        try:
            for result in self._result:
                self._undo(result)
        except OrchestratorError as error:
            _log_undo_failed(error)


def _log_undo_failed(error: OrchestratorError) -> None:
    """A call was cancelled, and what it had done could not be undone at once."""
    emit(logging.ERROR, "mcp.undo_failed", error=str(error), hint=error.hint)


def _limiter() -> anyio.CapacityLimiter:
    try:
        return _LIMITER.get()
    except LookupError:
        made = anyio.CapacityLimiter(_AT_ONCE)
        _LIMITER.set(made)
        return made


def errors_as_results(
    tool: Callable[Concatenate[Self, P], Awaitable[T]],
) -> Callable[Concatenate[Self, P], Awaitable[T | CallToolResult]]:
    """Let a tool's caller see our errors: what happened, what to do, and what is left."""

    @functools.wraps(tool)
    async def answering(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T | CallToolResult:
        try:
            return await tool(self, *args, **kwargs)
        except OrchestratorError as error:
            return failed(error)

    return answering


def failed(error: OrchestratorError, **more: Any) -> CallToolResult:  # noqa: ANN401 - JSON-safe
    """Return the result of a tool that has failed: in words for the model, and as values."""
    told = error.to_dict()
    lines = [str(error)]
    lines += [f"it wrote: {line}" for line in str(told.get("output", "")).splitlines()[-5:]]
    lines += [f"left behind: {thing}" for thing in error.leaked]
    lines += [f"hint: {error.hint}"] * bool(error.hint)
    return CallToolResult(
        content=[TextContent(type="text", text="\n".join(lines))],
        structured_content={"success": False, **told, **more},
        is_error=True,
    )
