"""
The log tail: the pane shows the agent's log as it grows (``tail -f``).

The tail is a courtesy, and must not block the agent or its end. It writes only what the
terminal accepts at once. If the terminal falls behind, it skips older output.
"""

from __future__ import annotations

import errno
import posix
import select

from orchestrator_core.supervisor.platform import FileGrowthWatch

_TERMINAL = 1
_BACKLOG = 65536  #: The bytes that a terminal still gets after it has fallen behind.


class PaneTail:
    """
    A tail of *log* on standard output; without effect if that is not a terminal.

    It polls as readable, too, when a name of *watched* is removed: see ``FileGrowthWatch``.

    Attributes:
        has_terminal: Whether there is a terminal to write to.
        log: The log's descriptor, once it is open.
    """

    def __init__(self, log: str, watched: tuple[str, ...] = ()) -> None:
        self._path = log
        self._watched = watched
        self.log: int | None = None
        self._growth: FileGrowthWatch | None = None
        self._position = 0
        self._pending = b""
        self.has_terminal = posix.isatty(_TERMINAL)

    def open(self) -> None:
        """Start to follow the log, from its beginning."""
        if not self.has_terminal:
            return
        posix.set_blocking(_TERMINAL, False)
        try:
            self.log = posix.open(self._path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
            self._growth = FileGrowthWatch(self._path, self.log, self._watched)
        except OSError:
            pass  # The log is complete without the pane.
        self.copy_new()

    @property
    def is_watching(self) -> bool:
        """Whether a removal of the watched names is an event."""
        return self._growth is not None and not self._pending

    def poll_fds(self) -> list[tuple[int, int]]:
        """Return the descriptors and events to poll for: the terminal, and the log's growth."""
        wanted = []
        if self.has_terminal:
            wanted.append((_TERMINAL, select.POLLOUT if self._pending else 0))
        if self._growth is not None and not self._pending:
            wanted.append((self._growth.fd, select.POLLIN))
        return wanted

    def copy_new(self) -> None:
        """Copy new output to the terminal, as much as it accepts without blocking."""
        if self.log is None or not self.has_terminal:
            return
        if self._growth is not None:
            self._growth.drain()
        size = posix.fstat(self.log).st_size  # Output after this call is a new event.
        try:
            while self._pending or self._read_new(self.log, size):
                written = posix.write(_TERMINAL, self._pending)
                self._pending = self._pending[written:]
        except BlockingIOError:
            pass  # The terminal is full. The copy continues when it polls as writable.
        except OSError:
            self._pending = b""  # The terminal is gone, as hung_up() will report.

    def hung_up(self) -> bool:
        """Return whether the terminal that was there is gone."""
        if not self.has_terminal:
            return False
        try:
            posix.get_terminal_size(_TERMINAL)
        except OSError as error:
            return error.errno in (errno.EIO, errno.ENXIO)
        return False

    def detach(self) -> None:
        """Write and poll nothing from now on."""
        self.has_terminal = False
        self._growth = None
        self._pending = b""

    def _read_new(self, log: int, size: int) -> bool:
        """Read the output up to *size*, at most the backlog; False if there is none."""
        self._position = min(self._position, size)  # The log may have been truncated.
        has_gap = size - self._position > _BACKLOG
        if has_gap:
            self._position = size - _BACKLOG
        new = posix.pread(log, size - self._position, self._position)
        self._position += len(new)
        if has_gap:
            new = b"\n[...]\n" + new.partition(b"\n")[2]
        self._pending = new
        return bool(new)
