"""
Cancellation scope: one blocking call, and the thread that may cancel it.

A thread cannot be cancelled, and two calls may block for long: a wait, and the grace of a
deployment. An event loop runs such a call in a thread, inside a :class:`CallScope`. A
cancelled wait returns at once. After a deployment's commit, the scope has the agent's id,
so that the canceller can end the agent.
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
    One call, and the means to cancel it from another thread.

    Attributes:
        agent_id: The agent that a deployment has committed; None before.
        cancelled_fd: A descriptor that is readable when the call is cancelled.
    """

    def __init__(self) -> None:
        self.agent_id: str | None = None
        self.cancelled_fd, self._cancel_fd = os.pipe()
        self._agent_known = threading.Event()
        self._lock = threading.Lock()

    def set_agent(self, agent_id: str) -> None:
        """Record the agent that a deployment has committed."""
        self.agent_id = agent_id
        self._agent_known.set()

    def wait_for_agent(self) -> str | None:
        """Wait until a deployment has committed or returned; return the committed agent's id."""
        self._agent_known.wait()
        return self.agent_id

    def stop(self) -> None:
        """Cancel the call. Idempotent, and safe after the call has returned."""
        with self._lock:
            if self._cancel_fd >= 0:
                os.close(self._cancel_fd)
                self._cancel_fd = -1

    def close(self) -> None:
        """Close the descriptors, and release all waiting threads. Idempotent."""
        self.stop()
        self._agent_known.set()
        with self._lock:
            if self.cancelled_fd >= 0:
                os.close(self.cancelled_fd)
                self.cancelled_fd = -1

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """Make this the scope of the calling thread's call in the block; close it at the end."""
        current.scope = self
        try:
            yield
        finally:
            current.scope = None
            self.close()


class _CurrentCall(threading.local):
    scope: CallScope | None = None  #: None: the calling thread's call cannot be cancelled.


current = _CurrentCall()
