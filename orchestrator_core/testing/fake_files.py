"""The real files of a fake supervisor: the journal it waits for, and what it leaves behind."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from orchestrator_core.supervisor.exit_recorder import ExitRecorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.supervisor.launch import Launch
    from orchestrator_core.testing.fake_world import FakeProcess


class FakeJournal:
    """The journal, held open as the supervisor holds it: it stays the same when it is renamed."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._path: str | None = None

    def open(self, path: str) -> None:
        """Open it, once; whatever becomes of its name, this is the journal."""
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._path = path

    def is_free(self) -> bool:
        """Tell whether nobody holds the agent's lock, now."""
        if self._fd is None:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def ask(self, what: Callable[[int], bool]) -> bool:
        """Ask one of the gate's questions of it."""
        return self._fd is not None and what(self._fd)

    def ask_by_path(self, what: Callable[[int, str | None], bool]) -> bool:
        """Ask the same of it, and of what is at its path by now."""
        return self._fd is not None and what(self._fd, self._path)

    def close(self) -> None:
        """Leave no descriptor open. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    __del__ = close  # A world that a test has dropped must not keep descriptors.


class FakeExitRecorder(ExitRecorder):
    """
    The real witness, of processes that ``/proc`` does not know.

    Attributes:
        silent: Whether the next word follows in the same instant, so that this one is not written.
    """

    def __init__(self, told: Launch, boot_id: str) -> None:
        super().__init__(told.exit_file, told.events)
        self.silent = False
        self._boot_id = boot_id

    def record_start(self, agent: FakeProcess) -> None:
        """Tell that the agent runs, and who it is, as ``started`` does of a real one."""
        self._write_start_record(agent.pid, agent.started, self._boot_id, in_cgroup=False)

    def _write(self, *, tree_empty: bool, forced: bool) -> None:
        if not self.silent:
            super()._write(tree_empty=tree_empty, forced=forced)

    def close(self) -> None:
        """Leave no descriptor open. Idempotent."""
        fd, self._events = self._events, None
        if fd is not None:
            os.close(fd)

    __del__ = close  # As above.
