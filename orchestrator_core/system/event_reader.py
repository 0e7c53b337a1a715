"""
The reader of a supervisor's events: news for the deployer, and never its only record.

:func:`wait_readable` waits for events on any descriptors.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.system.processes.protocol import Identity, Processes

_OUTPUT_SHOWN = 2000  #: Bytes of an early death's output that the error shows.


class SupervisorEvents:
    """
    The reading end of a supervisor's event pipe, and the agent's log.

    Both are opened before the first event can arrive, and stay readable after the agent's
    files have been removed.
    """

    def __init__(self, events: str, log: str) -> None:
        self.fd = os.open(events, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._text = b""
        self.writer_closed = False  #: The supervisor has closed its end.

    def poll(self) -> set[str]:
        """Return the names of all events so far, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.fd, 4096):
                self._text += piece
            self.writer_closed = bool(self._text)  # Without any event, no writer has opened it.
        lines = self._text.split(b"\n")[:-1]
        return {line.split(b" ", 1)[0].decode() for line in lines}

    def wait_for(
        self,
        events: set[str],
        *,
        processes: Processes,
        supervisor: Identity | None,
        timeout_s: float,
    ) -> str | None:
        """
        Return the first of *events* to arrive; None after *timeout_s* without any.

        Return "supervisor-exited" if none of them can arrive any more.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            arrived = self.poll() & events
            if arrived:
                return arrived.pop()
            if self.writer_closed:
                return "supervisor-exited"
            left_s = max(0.0, deadline - time.monotonic())
            seen = processes.watch(supervisor, timeout_s=left_s, fd=self.fd)
            if not seen.readable:
                return "supervisor-exited" if seen.exited else None

    def output_tail(self) -> str:
        """Return the last 2000 bytes that the agent wrote."""
        start = max(0, os.fstat(self._log).st_size - _OUTPUT_SHOWN)
        return os.pread(self._log, _OUTPUT_SHOWN, start).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)
        os.close(self._log)


def wait_readable(fds: Sequence[int], deadline: float, *, events: int = select.POLLIN) -> list[int]:
    """Wait for *events* on *fds* until *deadline*, by ``time.monotonic``; return the ready ones."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    return [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
