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

from orchestrator_core.supervisor.platform import LONGEST_POLL_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator_core.system.processes.protocol import Identity, Processes

_READ_BYTES = 65536  #: The capacity of a pipe.
_OUTPUT_SHOWN = 2000  #: Bytes of an early death's output that the error shows.


class SupervisorEvents:
    """
    The reading end of a supervisor's event pipe, and the agent's log.

    Both are opened before the first event can arrive, and stay readable after the agent's
    files have been removed.
    """

    def __init__(self, events: str, log: str) -> None:
        # Open for writing, too: a pipe with a writer has no end of file, which would look the
        # same before the supervisor opens the pipe and after the supervisor died silently.
        self.fd = os.open(events, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._names: set[str] = set()
        self._incomplete = b""  #: The beginning of a line whose end has not arrived.

    def poll(self) -> set[str]:
        """Return the names of all events so far, without waiting."""
        with contextlib.suppress(BlockingIOError):
            # One read: a writer that never pauses must not keep the caller from its deadline.
            *lines, rest = (self._incomplete + os.read(self.fd, _READ_BYTES)).split(b"\n")
            self._names.update(line.split(b" ", 1)[0].decode(errors="replace") for line in lines)
            self._incomplete = rest[-_READ_BYTES:]
        return self._names

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

        Return "supervisor-exited" if the supervisor is dead, or never lived, without having
        written any of them.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            arrived = self.poll() & events
            if arrived:
                return arrived.pop()
            if supervisor is None:
                return "supervisor-exited"
            left_s = deadline - time.monotonic()
            if left_s < 0:
                return None
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
    """
    Wait for *events* on *fds* until *deadline*, by ``time.monotonic``; return the ready ones.

    The deadline may be any distance away; infinity means no deadline.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        ready = poll.poll(min(left_s, LONGEST_POLL_S) * 1000)
        if ready or left_s <= LONGEST_POLL_S:
            return [fd for fd, _ in ready]
