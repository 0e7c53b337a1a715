"""
The call around a tool: its progress notifications, and a client that goes away.

A call whose client asked for progress has a :class:`ProgressFeed` in its context, which its
worker thread inherits. :class:`ProgressObserver` watches all sagas of an orchestrator, and
pushes each step into the feed of the call that the step belongs to. A heartbeat follows
every second.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs

from orchestrator_core.saga import Observer
from orchestrator_core.system.wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from orchestrator_core.saga import StepReport

T = TypeVar("T")
A = TypeVar("A")

_HEARTBEAT_S = 1.0  #: A client gives up a call after too long a silence.
_CAPACITY = 100  #: Messages that wait for the client; later ones are dropped.


@attrs.frozen(kw_only=True)
class ToolCall:
    """What a server knows about one call, beside its arguments."""

    #: Sends a number and a message; None if the client did not ask for progress.
    notify: Callable[[float, str], Awaitable[object]] | None = None
    #: Set when the client can no longer get the answer; None if the server does not know.
    abandoned: anyio.Event | None = None

    async def until_abandoned(self, work: Callable[[A], Awaitable[T]], argument: A) -> T | None:
        """Return the result of *work*, or None if the client has gone, which cancels it."""
        if self.abandoned is None:
            return await work(argument)
        results: list[T] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when, self.abandoned, tasks.cancel_scope)
            results.append(await work(argument))
            tasks.cancel_scope.cancel()
        return results[0] if results else None


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


_CALL: contextvars.ContextVar[ToolCall | None] = contextvars.ContextVar("call", default=None)


@contextlib.contextmanager
def current_call(call: ToolCall) -> Iterator[None]:
    """Within the block, *call* is the call that :func:`progress_feed` notifies."""
    previous = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(previous)


class ProgressFeed:
    """The progress of one call: pushed in worker threads, sent in order by the event loop."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._messages: collections.deque[str] = collections.deque()
        self._wakeup = Wakeup()

    def push(self, message: str) -> None:
        """Queue a message, from any thread, without waiting for the event loop."""
        if len(self._messages) < _CAPACITY:
            self._messages.append(message)
            self._wakeup.set()

    async def send(self, notify: Callable[[float, str], Awaitable[object]]) -> None:
        """Send each message, and a heartbeat at least every second, until cancelled."""
        number, message = 0, self._action
        while True:
            await notify(number, message)
            if not self._messages:
                with anyio.move_on_after(_HEARTBEAT_S):
                    await anyio.wait_readable(self._wakeup.fd)
            self._wakeup.clear()
            number += 1
            message = self._messages.popleft() if self._messages else f"still {self._action}"


_FEED: contextvars.ContextVar[ProgressFeed | None] = contextvars.ContextVar("feed", default=None)


@contextlib.asynccontextmanager
async def progress_feed(action: str) -> AsyncIterator[None]:
    """Notify the client of the block's progress, if the client asked for it."""
    call = _CALL.get()
    if call is None or call.notify is None:
        yield
        return
    feed = ProgressFeed(action)
    previous = _FEED.set(feed)
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.send, call.notify)
            try:
                yield
            except Exception as raised:  # noqa: BLE001 - raised below, where no group wraps it
                error = raised
            tasks.cancel_scope.cancel()
    finally:
        _FEED.reset(previous)
    if error is not None:
        raise error


class ProgressObserver(Observer):
    """
    Notifies a client of each step that its call does or undoes.

    Give it to the orchestrator of the tools: ``Orchestrator(observer=ProgressObserver())``.
    """

    def step_done(self, saga_id: str, step: str, duration_ms: float) -> None:
        """Push a step that holds its resource."""
        _push(f"{saga_id}: {step} done in {duration_ms:.0f} ms")

    def saga_committed(self, saga_id: str) -> None:
        """Push a commit: all steps are done, durably."""
        _push(f"{saga_id}: committed")

    def step_undone(self, saga_id: str, report: StepReport) -> None:
        """Push the result of an undo."""
        _push(f"{saga_id}: {report.step} {report.result}")


def _push(message: str) -> None:
    feed = _FEED.get()
    if feed is not None:
        feed.push(message)
