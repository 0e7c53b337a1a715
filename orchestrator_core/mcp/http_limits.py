"""
Bounds on HTTP connections: how many there are, and how long a request may take to arrive.

uvicorn bounds neither. A program without the token could otherwise hold connections open
until the process has no file descriptor left for a client.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

REQUEST_TIMEOUT_S = 10.0  #: From a connection, or the last answer on it, to a complete request.
_MAX_CONNECTIONS = 256


def max_connections() -> int:
    """Return the limit: half of the process's file descriptors remain for its other work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if soft < 0 else max(8, min(_MAX_CONNECTIONS, soft // 2))


class LimitedProtocol(H11Protocol):
    """
    One connection of the server.

    A connection without a complete request is closed after :data:`REQUEST_TIMEOUT_S`. When a
    connection is one too many, the oldest without a complete request is closed in its
    place; only if every connection has a request that is being answered, the new one is.
    """

    _timer: asyncio.TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's transport
        """Accept a connection within the limit."""
        others = [each for each in self.connections if isinstance(each, LimitedProtocol)]
        super().connection_made(transport)
        if len(others) >= max_connections():
            waiting = [each for each in others if each.is_waiting()] or [self]
            min(waiting, key=lambda each: each._waiting_since).drop()  # noqa: SLF001 - its own class
        self._expect_request()

    def is_waiting(self) -> bool:
        """Return whether no complete request is being answered."""
        cycle: Any = self.cycle  # None before the first request.
        return cycle is None or cycle.response_complete or cycle.more_body

    def drop(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    def _expect_request(self) -> None:
        self._cancel_timer()
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self._drop_if_waiting)

    def _drop_if_waiting(self) -> None:
        if self.is_waiting() and not self.transport.is_closing():
            self.drop()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_timer()
        super().connection_lost(exc)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
