"""
The mirror: what the agent writes to its log, shown in the pane.

It is a courtesy. It reads the log as anybody may, writes to the terminal only
what that takes at once, and leaves out what is old when the terminal does not
keep up: a hung tmux stalls neither the agent nor its end.
"""

from __future__ import annotations

import errno
import os
import select
import termios

from orchestrator_core.supervisor import platform

_TERMINAL = 1
_BACKLOG = 65536  #: What a terminal that has fallen behind still gets to see.


class PaneTail:
    """The log's end, on our terminal; nothing at all, if we have none."""

    def __init__(self, log: str) -> None:
        self._log: int | None = None
        self._growth: platform.FileGrowthWatch | None = None
        self._position = 0
        self._pending = b""
        self.has_terminal = os.isatty(_TERMINAL)
        if not self.has_terminal:
            return
        os.set_blocking(_TERMINAL, False)
        try:
            self._log = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._growth = platform.FileGrowthWatch(log, self._log)
        except OSError:
            pass  # The log is what counts; the pane shows what it can.

    def poll_fds(self) -> list[tuple[int, int]]:
        """Return what to poll for: the terminal's end, or that it takes more; the log's growth."""
        wanted = []
        if self.has_terminal:
            wanted.append((_TERMINAL, select.POLLOUT if self._pending else 0))
        if self._growth is not None and not self._pending:
            wanted.append((self._growth.fd, select.POLLIN))
        return wanted

    def copy_new(self) -> None:
        """Show what is new by now, as far as the terminal takes it without waiting."""
        if self._log is None or not self.has_terminal:
            return
        if self._growth is not None:
            self._growth.drain()
        size = os.fstat(self._log).st_size  # What comes after this look is news again.
        try:
            while self._pending or self._read_new(self._log, size):
                shown = os.write(_TERMINAL, self._pending)
                self._pending = self._pending[shown:]
        except BlockingIOError:
            pass  # The terminal is full; we go on when it polls as writable.
        except OSError:
            self._pending = b""  # There is no terminal any more; hung_up() will tell.

    def hung_up(self) -> bool:
        """Tell whether there was a terminal, and it has been taken away."""
        if not self.has_terminal:
            return False
        try:
            termios.tcgetwinsize(_TERMINAL)
        except (termios.error, OSError) as error:
            return error.args[0] in (errno.EIO, errno.ENXIO)
        return False

    def detach(self) -> None:
        """Neither show nor watch anything from now on."""
        self.has_terminal = False
        self._growth = None
        self._pending = b""

    def _read_new(self, log: int, size: int) -> bool:
        """Read on, from where the terminal is or from the backlog; False if *size* is reached."""
        self._position = min(self._position, size)  # Somebody may have cut the log.
        behind = size - self._position > _BACKLOG
        if behind:
            self._position = size - _BACKLOG
        new = os.pread(log, size - self._position, self._position)
        self._position += len(new)
        if behind:
            new = b"\n[...]\n" + new.partition(b"\n")[2]
        self._pending = new
        return bool(new)
