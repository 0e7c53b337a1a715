"""What a supervisor tells its deployer: news only, and never state."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator_core.system.processes.protocol import Identity, Processes

_OUTPUT_SHOWN = 2000  #: Bytes of an early death's output that the error shows.


class SupervisorEvents:
    """The reading end of the supervisor's events, open before it can have any."""

    def __init__(self, events: str, log: str) -> None:
        self.fd = os.open(events, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Held open: should the agent be undone before we look, its log is still to be read.
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._text = b""
        self.writer_closed = False  #: The supervisor has let go of its end.

    def poll(self) -> set[str]:
        """Return the words that have been heard so far."""
        try:
            while not self.writer_closed:
                piece = os.read(self.fd, 4096)
                self._text += piece
                self.writer_closed = not piece and bool(self._text)
                if not piece:
                    break
        except BlockingIOError:
            pass
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
        """Return the first of *events* to arrive, or "supervisor-exited" if none can any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            heard = self.poll() & events
            if heard:
                return heard.pop()
            if self.writer_closed:
                return "supervisor-exited"
            left_s = max(0.0, deadline - time.monotonic())
            seen = processes.watch(supervisor, timeout_s=left_s, fd=self.fd)
            if seen.exited and not seen.readable:
                return "supervisor-exited"
            if not seen.readable:
                return None

    def output_tail(self) -> str:
        """Return the last of what the agent wrote."""
        size = os.fstat(self._log).st_size
        start = max(0, size - _OUTPUT_SHOWN)
        return os.pread(self._log, _OUTPUT_SHOWN, start).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        os.close(self._log)
