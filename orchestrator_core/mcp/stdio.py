"""
Standard input and output for the SDK's stdio transport.

The SDK's own streams read and write in threads that a cancellation cannot interrupt, so
SIGTERM would not end a server whose client neither writes nor reads. The two streams here
abandon such a thread. An abandoned thread keeps a Python process from its normal exit; the
command line leaves by :func:`os._exit`.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def redirect_stdio() -> tuple[StdinLines, StdoutWriter]:
    """
    Return streams to the client; from now on nothing else in this process can use them.

    Descriptor 0 becomes empty and descriptor 1 becomes standard error: child processes cannot
    read what the client writes, and prints do not reach the client.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # The number of a stream that was closed at the start may belong to another file now.
    stdin = _replace(0, null) if sys.__stdin__ else null
    stderr = 2 if sys.__stderr__ else null
    stdout = _replace(1, stderr) if sys.__stdout__ else null
    lines = StdinLines(stdin)
    return lines, StdoutWriter(stdout, lines)


def _replace(fd: int, substitute: int) -> int:
    """Put *substitute* at *fd*, and return a duplicate of the original."""
    original = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(substitute, fd)
    return original


class StdinLines:
    """The lines that a client writes, until the client closes its end or :meth:`stop`."""

    def __init__(self, fd: int) -> None:
        self._file = open(fd, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 - a descriptor
        self._limiter = anyio.CapacityLimiter(1)  # The tools' calls may take all shared threads.
        self._is_stopped = False
        self._reading: anyio.CancelScope | None = None

    def stop(self) -> None:
        """End the iteration, as if the client had closed its end. Only from the event loop."""
        self._is_stopped = True
        if self._reading is not None:
            self._reading.cancel()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if not self._is_stopped:
            with anyio.CancelScope() as self._reading:
                line = await anyio.to_thread.run_sync(
                    self._read_line, abandon_on_cancel=True, limiter=self._limiter
                )
                if line:
                    return line
        raise StopAsyncIteration

    def _read_line(self) -> str:
        with contextlib.suppress(OSError, ValueError):  # A terminal that hung up, for one.
            return self._file.readline()
        return ""


class StdoutWriter:
    """The messages to a client; dropped once the client has closed its end."""

    def __init__(self, fd: int, lines: StdinLines) -> None:
        self._fd = fd
        self._lines = lines
        self._limiter = anyio.CapacityLimiter(1)  # As above.
        self._is_closed = False
        self._deadline = math.inf
        self._writing: anyio.CancelScope | None = None

    def set_write_deadline(self, timeout_s: float) -> None:
        """Count a client that has not read everything within *timeout_s* as one that closed."""
        self._deadline = min(self._deadline, anyio.current_time() + timeout_s)
        if self._writing is not None:
            self._writing.deadline = self._deadline

    async def write(self, text: str) -> None:
        """Write all of *text*; other tasks run meanwhile."""
        if self._is_closed:
            return
        with anyio.CancelScope(deadline=self._deadline) as self._writing:
            if await anyio.to_thread.run_sync(
                self._write, text.encode(), abandon_on_cancel=True, limiter=self._limiter
            ):
                return
        self._is_closed = True
        self._lines.stop()

    def _write(self, data: bytes) -> bool:
        left = memoryview(data)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._fd, left) :]
        return not left

    async def flush(self) -> None:
        """Do nothing: :meth:`write` has no buffer."""
