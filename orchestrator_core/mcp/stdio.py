"""
Standard input and output as a server's event loop waits for them, without threads.

The SDK's own transport hands every read, write and flush to a worker thread. To be
handed to a thread and back costs as much as all else that a server does for a call; a
pipe can be waited for by the loop itself. The messages are the SDK's affair: this is
what its ``stdio_server`` takes in the place of two files.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import stat
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_AT_ONCE = 65536  #: Bytes; a pipe holds no more.


@contextlib.contextmanager
def taken() -> Iterator[tuple[Incoming, Outgoing]]:
    """
    Take standard input and output for oneself, until the block is left.

    Meanwhile descriptor 0 is empty, and what is written to 1 goes to standard error: what
    our children read and print is none of the client's.
    """
    with contextlib.ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, nothing)
        # One that was closed when we started may be something else of ours by now.
        hears = stack.enter_context(_replaced(0, nothing)) if sys.__stdin__ else nothing
        aside = 2 if sys.__stderr__ else nothing
        _flush()  # For the client; and what is printed from now on is not.
        says = stack.enter_context(_replaced(1, aside)) if sys.__stdout__ else nothing
        stack.callback(_flush)
        incoming = Incoming(hears)
        yield incoming, Outgoing(says, incoming)


@contextlib.contextmanager
def _replaced(fd: int, by: int) -> Iterator[int]:
    """Yield another descriptor for what is at *fd*, where meanwhile is what *by* is."""
    wire = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        os.dup2(by, fd)
        yield wire
    finally:
        os.dup2(wire, fd)
        os.close(wire)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # It is full, or closed.
        if sys.stdout is not None:
            sys.stdout.flush()


class Incoming:
    """The lines that a client writes, until it goes away or we are told to :meth:`end`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        mode = os.fstat(fd).st_mode
        #: A file, or nothing at all, never keeps anybody waiting; and no loop can wait for it.
        self._keeps_waiting = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        self._read = bytearray()
        self._is_over = False
        self._waiting: anyio.CancelScope | None = None

    def end(self) -> None:
        """Let there be no more lines, as if the client had gone away. For the event loop only."""
        self._is_over = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        searched = 0
        while not self._is_over:
            end = self._read.find(b"\n", searched) + 1
            if end:
                return self._cut(end)
            searched = len(self._read)
            if not await self._more():
                break
        if self._is_over or not self._read:
            raise StopAsyncIteration
        return self._cut(len(self._read))

    def _cut(self, end: int) -> str:
        line = self._read[:end].decode(errors="replace")
        del self._read[:end]
        return line

    async def _more(self) -> bool:
        """Read what there is, once there is something; False if nothing will come any more."""
        with anyio.CancelScope() as self._waiting:
            while True:
                if self._keeps_waiting:
                    await self._wait()
                try:
                    some = os.read(self._fd, _AT_ONCE)
                except BlockingIOError:  # Who shares it with us was faster.
                    continue
                except OSError:  # A terminal that has hung up, say.
                    return False
                self._read += some
                return bool(some)
        return False

    async def _wait(self) -> None:
        try:
            await anyio.wait_readable(self._fd)
        except OSError:  # A kqueue knows not every terminal.
            await anyio.to_thread.run_sync(
                select.select, [self._fd], [], [], abandon_on_cancel=True
            )


class Outgoing:
    """What we write to a client; nothing, once it has gone away."""

    def __init__(self, fd: int, incoming: Incoming) -> None:
        self._fd = fd
        self._incoming = incoming
        self._is_gone = False
        self._until = math.inf
        self._waiting: anyio.CancelScope | None = None

    def hurry(self, within_s: float) -> None:
        """Wait no longer than that, in all, for a client that does not read: then it is gone."""
        self._until = min(self._until, anyio.current_time() + within_s)
        if self._waiting is not None:
            self._waiting.deadline = self._until

    async def write(self, text: str) -> None:
        """Write all of it; a client that does not read keeps nobody waiting but who writes."""
        left = memoryview(text.encode())
        while left and not self._is_gone:
            await self._writable()
            if self._is_gone:
                return
            try:
                # So much never blocks where something can be written: see select.PIPE_BUF.
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
            except BlockingIOError:  # As above.
                await self._wait()
            except OSError:
                self._leave()

    async def flush(self) -> None:
        """Do nothing: what was written is with the client."""

    async def _writable(self) -> None:
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        if not ready.poll(0):
            await self._wait()

    async def _wait(self) -> None:
        with anyio.CancelScope(deadline=self._until) as self._waiting:
            await anyio.wait_writable(self._fd)
        if self._waiting.cancelled_caught:
            self._leave()

    def _leave(self) -> None:
        self._is_gone = True
        self._incoming.end()
