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
import os
import select
import sys
from typing import TYPE_CHECKING

import anyio

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
        says = stack.enter_context(_replaced(1, aside)) if sys.__stdout__ else nothing
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


class Incoming:
    """The lines that a client writes, until it goes away or we are told to :meth:`end`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
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
                with contextlib.suppress(PermissionError):  # A file: it is all there.
                    await anyio.wait_readable(self._fd)
                try:
                    some = os.read(self._fd, _AT_ONCE)
                except BlockingIOError:  # Who shares it with us was faster.
                    continue
                except OSError:  # A terminal that has hung up, say.
                    return False
                self._read += some
                return bool(some)
        return False


class Outgoing:
    """What we write to a client; nothing, once it has gone away."""

    def __init__(self, fd: int, incoming: Incoming) -> None:
        self._fd = fd
        self._incoming = incoming
        self._is_gone = False

    async def write(self, text: str) -> None:
        """Write all of it; a client that does not read keeps waiting nobody but itself."""
        left = memoryview(text.encode())
        while left and not self._is_gone:
            await self._writable()
            try:
                # So much never blocks where something can be written: see select.PIPE_BUF.
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
            except BlockingIOError:  # As above.
                await anyio.wait_writable(self._fd)
            except OSError:
                self._is_gone = True
                self._incoming.end()

    async def flush(self) -> None:
        """Do nothing: what was written is with the client."""

    async def _writable(self) -> None:
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        if not ready.poll(0):
            await anyio.wait_writable(self._fd)
