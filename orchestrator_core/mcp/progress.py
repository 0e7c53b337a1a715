"""
ProgressFeed of a long call while it lasts: the steps of its sagas, and that it is still going on.

A call that was asked for progress has a :class:`ProgressFeed` in its context, which a worker
thread inherits. :class:`ProgressObserver` watches all sagas of an orchestrator, and tells the
news of whatever call the step belongs to.
"""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread

from orchestrator_core.saga.observer import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.server.mcpserver import Context

    from orchestrator_core.saga.report import StepReport

_BEAT_S = 1.0  #: A client that has heard nothing for too long gives a call up.


class ProgressFeed:
    """What is to be told of one call, in order; said in worker threads, sent by the event loop."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._send, self._heard = anyio.create_memory_object_stream[str](100)

    def say(self, message: str) -> None:
        """Tell of something, from a worker thread. What nobody hears any more is no harm."""
        with contextlib.suppress(Exception):
            anyio.from_thread.run_sync(self._send.send_nowait, message)

    async def tell(self, ctx: Context) -> None:
        """Send all that is said, and something at least every second, until cancelled."""
        number, message = 0, self._doing
        with self._send, self._heard:
            while True:
                await ctx.report_progress(number, message=message)
                number, message = number + 1, f"still {self._doing}"
                with anyio.move_on_after(_BEAT_S):
                    message = await self._heard.receive()


_FEED: contextvars.ContextVar[ProgressFeed | None] = contextvars.ContextVar("news", default=None)


@contextlib.asynccontextmanager
async def news(ctx: Context | None, doing: str) -> AsyncIterator[None]:
    """Tell the client what is going on in the block, if it has asked to be told."""
    if ctx is None or not _is_asked(ctx):
        yield
        return
    told = ProgressFeed(doing)
    before = _FEED.set(told)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told.tell, ctx)
            yield
            tasks.cancel_scope.cancel()
    finally:
        _FEED.reset(before)


def _is_asked(ctx: Context) -> bool:
    meta = ctx.request_context.meta
    return meta is not None and "progress_token" in meta


class ProgressObserver(Observer):
    """
    Tells a client of each step that its call does or undoes.

    Give it to the orchestrator of the tools: ``Orchestrator(observer=ProgressObserver())``.
    """

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """A step holds its resource."""
        _say(f"{saga_id}: {step} done in {duration_ms:.0f} ms")

    def saga_committed(self, saga_id: str) -> None:
        """All steps are done, durably."""
        _say(f"{saga_id}: committed")

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """A step's undo has come to something."""
        _say(f"{saga_id}: {report.step} {report.result}")


def _say(message: str) -> None:
    told = _FEED.get()
    if told is not None:
        told.say(message)
