"""
A call under way, and somebody in another thread who may lose interest in it.

A thread cannot be cancelled, and two of our calls may go on long after that: a wait,
and the grace of a deployment. Whoever runs them for an event loop follows them: a wait
ends as soon as it is told to, and from the commit on the follower knows whom to end.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CallScope:
    """
    One call, followed from another thread.

    Attributes:
        agent_id: Whom a deployment has committed, once it has.
        wake: A descriptor that is readable once nobody waits any more.
    """

    def __init__(self) -> None:
        self.agent_id: str | None = None
        self.cancelled_fd, self._cancel_fd = os.pipe()
        self._agent_known = threading.Event()
        self._lock = threading.Lock()

    def set_agent(self, agent_id: str) -> None:
        """Tell the follower whom to end, should it come to that."""
        self.agent_id = agent_id
        self._agent_known.set()

    def wait_for_agent(self) -> str | None:
        """Wait until a deployment is past its commit, or over; return whom it has committed."""
        self._agent_known.wait()
        return self.agent_id

    def stop(self) -> None:
        """Let the call end as soon as it can. Idempotent, and never too late."""
        with self._lock:
            if self._cancel_fd >= 0:
                os.close(self._cancel_fd)
                self._cancel_fd = -1

    def close(self) -> None:
        """Leave no descriptor open, and nobody waiting: it is over. Idempotent."""
        self.stop()
        self._agent_known.set()
        with self._lock:
            if self.cancelled_fd >= 0:
                os.close(self.cancelled_fd)
                self.cancelled_fd = -1

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Let the call that this thread makes in the block be this one."""
        _local.call = self
        try:
            yield
        finally:
            _local.call = None


def current() -> CallScope | None:
    """Return the call that the calling thread is in, if somebody follows it."""
    call: CallScope | None = getattr(_local, "call", None)
    return call


_local = threading.local()
