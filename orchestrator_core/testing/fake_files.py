"""The real files of a fake supervisor: the journal that it waits for, and its exit record."""

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
    """The journal, held open as by the real supervisor: a rename does not affect it."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._path: str | None = None

    def open(self, path: str) -> None:
        """Open the journal."""
        self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._path = path

    def is_free(self) -> bool:
        """Return whether the agent's lock is free now."""
        if self._fd is None:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def ask(self, question: Callable[[int], bool]) -> bool:
        """Return the answer of a function of the gate about the open journal."""
        return self._fd is not None and question(self._fd)

    def ask_by_path(self, question: Callable[[int, str | None], bool]) -> bool:
        """Return the answer about the open journal and the file at its path."""
        return self._fd is not None and question(self._fd, self._path)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    __del__ = close  # A fake that a test drops must not leak descriptors.


class FakeExitRecorder(ExitRecorder):
    """
    The real exit recorder, for processes that are not in ``/proc``.

    Attributes:
        silent: Whether to skip a record because the next one follows at the same instant.
    """

    def __init__(self, config: Launch, boot_id: str) -> None:
        super().__init__(config.exit_file, config.events)
        self.silent = False
        self._boot_id = boot_id

    def record_start(self, agent: FakeProcess) -> None:
        """Write the start record of the agent, as ``started`` does for a real one."""
        self._write_start_record(agent.pid, agent.started, self._boot_id, in_cgroup=False)

    def _write(self, *, tree_empty: bool, forced: bool) -> None:
        if not self.silent:
            super()._write(tree_empty=tree_empty, forced=forced)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        fd, self._events = self._events, None
        if fd is not None:
            os.close(fd)

    __del__ = close  # As above.
