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


class Underway:
    """
    One call, followed from another thread.

    Attributes:
        agent_id: Whom a deployment has committed, once it has.
        wake: A descriptor that is readable once nobody waits any more.
    """

    def __init__(self) -> None:
        self.agent_id: str | None = None
        self.wake, self._told = os.pipe()
        self._known = threading.Event()
        self._lock = threading.Lock()

    def committed(self, agent_id: str) -> None:
        """Tell the follower whom to end, should it come to that."""
        self.agent_id = agent_id
        self._known.set()

    def whom_to_end(self) -> str | None:
        """Wait until a deployment is past its commit, or over; return whom it has committed."""
        self._known.wait()
        return self.agent_id

    def stop(self) -> None:
        """Let the call end as soon as it can. Idempotent, and never too late."""
        with self._lock:
            if self._told >= 0:
                os.close(self._told)
                self._told = -1

    def close(self) -> None:
        """Leave no descriptor open, and nobody waiting: it is over. Idempotent."""
        self.stop()
        self._known.set()
        with self._lock:
            if self.wake >= 0:
                os.close(self.wake)
                self.wake = -1

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Let the call that this thread makes in the block be this one."""
        _here.call = self
        try:
            yield
        finally:
            _here.call = None


def current() -> Underway | None:
    """Return the call that the calling thread is in, if somebody follows it."""
    call: Underway | None = getattr(_here, "call", None)
    return call


_here = threading.local()
