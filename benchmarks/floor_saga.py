"""
The floor of a saga: the same file operations and fsyncs, by hand.

Read it downwards: a journal is made of a spare that lies ready, its intents and
its commit are fsynced, each step is a line, an end is a reason, five lines and a
report, and the file is put away. It plans nothing, checks nothing, and its JSON
lies ready as bytes, of the lengths that ours have.
"""

# ruff: noqa: PTH104, PTH108, PTH118 - the floor is bare

from __future__ import annotations

import fcntl
import os

INTENTS = b'{"kind":"begin"}\n' + b'{"kind":"intent","of":"' + b"x" * 690 + b'"}\n'
DONE = b'{"kind":"done","of":"' + b"x" * 75 + b'"}\n'
COMMIT = b'{"kind":"commit","of":"' + b"x" * 55 + b'"}\n'
UNWIND = b'{"kind":"unwind","of":"' + b"x" * 120 + b'"}\n'
UNDONE = b'{"kind":"undone","of":"' + b"x" * 120 + b'"}\n'
CLOSE = b'{"kind":"close","of":"' + b"x" * 750 + b'"}\n'


class Place:
    """A directory of journals, with a spare for the next one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.spare = f"{path}/.spare"
        self.closed = f"{path}/closed"
        os.makedirs(self.closed)  # noqa: PTH103 - see above
        os.close(self._lay())

    def _lay(self) -> int:
        return os.open(self.spare, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def begin(self, name: str) -> tuple[int, int]:
        fd = os.open(self.spare, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end = os.pwrite(fd, INTENTS, 0)
        os.fsync(fd)
        os.link(self.spare, f"{self.path}/{name}")
        os.unlink(self.spare)
        return fd, end

    def commit(self, name: str) -> None:
        fd, end = self.begin(name)
        for _step in range(5):
            end += os.pwrite(fd, DONE, end)
        os.pwrite(fd, COMMIT, end)
        os.fsync(fd)
        os.close(fd)

    def end(self, name: str) -> None:
        fd = os.open(f"{self.path}/{name}", os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.unwind(name, fd, len(os.read(fd, 1 << 20)))

    def unwind(self, name: str, fd: int, end: int) -> None:
        end += os.pwrite(fd, UNWIND, end)
        os.fsync(fd)
        for _step in range(5):
            end += os.pwrite(fd, UNDONE, end)
        os.pwrite(fd, CLOSE, end)
        os.fsync(fd)
        os.rename(f"{self.path}/{name}", f"{self.closed}/{name}")
        spare = self._lay()
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(directory)
        os.close(directory)
        os.close(spare)
        os.close(fd)

    def fail(self, name: str) -> None:
        """As a saga whose last step fails."""
        fd, end = self.begin(name)
        for _step in range(4):
            end += os.pwrite(fd, DONE, end)
        self.unwind(name, fd, end)
