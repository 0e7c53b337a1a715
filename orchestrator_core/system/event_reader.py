"""What a supervisor tells its deployer: news only, and never state."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from orchestrator_core.system.processes.protocol import Identity, Processes

_OUTPUT_SHOWN = 2000  #: Bytes of an early death's output that the error shows.


class News:
    """The reading end of the supervisor's events, open before it can have any."""

    def __init__(self, events: str, log: str) -> None:
        self.fd = os.open(events, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Held open: should the agent be undone before we look, its log is still to be read.
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._text = b""
        self.is_over = False  #: The supervisor has let go of its end.

    def read(self) -> set[str]:
        """Return the words that have been heard so far."""
        try:
            while not self.is_over:
                piece = os.read(self.fd, 4096)
                self._text += piece
                self.is_over = not piece and bool(self._text)
                if not piece:
                    break
        except BlockingIOError:
            pass
        lines = self._text.split(b"\n")[:-1]
        return {line.split(b" ", 1)[0].decode() for line in lines}

    def first_of(
        self,
        words: set[str],
        *,
        processes: Processes,
        supervisor: Identity | None,
        timeout_s: float,
    ) -> str | None:
        """Return the first of *words* that is heard, "gone" if nobody can say one any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            heard = self.read() & words
            if heard:
                return heard.pop()
            if self.is_over:
                return "gone"
            left_s = max(0.0, deadline - time.monotonic())
            seen = processes.watch(supervisor, timeout_s=left_s, fd=self.fd)
            if seen.gone and not seen.news:
                return "gone"
            if not seen.news:
                return None

    def output(self) -> str:
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
