"""A pipe that wakes the thread that waits for it, also from a signal handler."""

from __future__ import annotations

import contextlib
import os
import weakref


class Wakeup:
    """
    A flag with a descriptor: *fd* is readable while the flag is set.

    The pipe lives as long as this object: a late write must not reach another file.
    """

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        for fd in (self.fd, self.write_fd):
            os.set_blocking(fd, False)
            weakref.finalize(self, os.close, fd)

    def set(self) -> None:
        """Set the flag, from any thread."""
        with contextlib.suppress(BlockingIOError):  # The pipe is full, so the flag is set.
            os.write(self.write_fd, b".")

    def clear(self) -> None:
        """Clear the flag."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
