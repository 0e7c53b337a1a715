"""
Spares: journals that are not born yet.

A new file is durable only when its directory is, too. To keep that fsync out of
the way of a saga's start, a few empty files lie ready, made durable when there
was time; a journal is born by filling one, and giving it a name that others
look at (etcd's file pipeline and PostgreSQL's recycled segments do the same).

So a journal is never seen without its first lines: an empty one is damage. And
the name need not be durable, for a power failure that takes it brings the
spare's own name back, with the same content: see :meth:`Spares.left_behind`.
This leans on one thing: that a directory keeps the order of a link and of the
unlink that follows it, as the file systems with a journal, and APFS, do.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_core.system.durable import StrPath

_PREFIX = ".spare-"
_POOL = tuple(f"{_PREFIX}{number}" for number in range(4))
_LAID = 0o400  #: A spare that is not durable yet. Who takes it could lose a saga.
_READY = 0o600


@attrs.frozen
class Spare:
    """A file to be filled. It is locked by us, and durable under *path*."""

    path: str
    fd: int

    def give_up(self) -> None:
        """Remove it, and whatever was written to it. If that fails, it counts as left behind."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - `os` calls are where the tests break in
        os.close(self.fd)


@attrs.frozen
class Spares:
    """The spares of one directory."""

    directory: Path

    def take(self) -> Spare:
        """
        Return a spare that nobody else can take.

        Raises:
            StorageError: There was none, and none could be made.
        """
        for name in _POOL:
            path = f"{self.directory}/{name}"
            fd = self._claim(path)
            if fd is not None:
                return Spare(path, fd)
        return self._make()

    def _claim(self, path: str) -> int | None:
        if not os.access(path, os.F_OK):  # A tenth of what it takes to be told by an exception.
            return None
        try:
            fd = durable.open_private(path, os.O_RDWR)
        except (FileNotFoundError, StorageError):
            return None
        return fd if _owned(fd, path, _is_ready) else None

    def _make(self) -> Spare:
        """Make one for ourselves, and lay others ready by the same fsync."""
        while True:
            path = f"{self.directory}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
            fd = durable.open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            if _owned(fd, path, _is_untouched):
                break  # Otherwise somebody tidied it away before we had locked it.
        spare = Spare(path, fd)
        try:
            self.lay()
        except BaseException:
            spare.give_up()
            raise
        return spare

    def lay(self) -> None:
        """
        Lay ready what is missing, as far as there is space; and fsync the directory.

        Raises:
            StorageError: The fsync failed.
        """
        laid = [fd for fd in map(self._lay, _POOL) if fd is not None]
        try:
            durable.fsync_directory(self.directory)
            with storage_errors("lay spares in", self.directory):
                for fd in laid:
                    os.fchmod(fd, _READY)
        finally:
            for fd in laid:
                os.close(fd)

    def _lay(self, name: str) -> int | None:
        path = f"{self.directory}/{name}"
        if os.access(path, os.F_OK):
            return None
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _LAID)
        except OSError:
            return None

    def are_missing(self) -> bool:
        """Tell whether none lies ready."""
        return not any(os.path.lexists(f"{self.directory}/{name}") for name in _POOL)

    def left_behind(self) -> Iterator[Spare]:
        """
        Return those that a crash left: half laid, filled but not named, or named but kept.

        Each is locked by us; the caller gives it up, or closes it.
        """
        with storage_errors("list", self.directory), os.scandir(self.directory) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
        for name in names:
            spare = self._take_over(f"{self.directory}/{name}", lies_ready=name in _POOL)
            if spare is not None:
                yield spare

    def _take_over(self, path: str, *, lies_ready: bool) -> Spare | None:
        try:
            fd = durable.open_private(path, os.O_RDONLY)
        except (FileNotFoundError, StorageError):
            return None
        if lies_ready and _is_ready(fd, path):
            os.close(fd)
            return None
        return Spare(path, fd) if _owned(fd, path, is_at) else None


def _owned(fd: int, path: str, is_still: Callable[[int, str], bool]) -> bool:
    """Lock *fd*, and tell whether it *is_still* what we thought, now that it is; else close it."""
    try:
        if locks.try_lock(fd) and is_still(fd, path):
            return True
    except BaseException:
        os.close(fd)
        with storage_errors("lock", path):
            raise
    os.close(fd)
    return False


def is_at(fd: int, path: StrPath) -> bool:
    """Tell whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _is_ready(fd: int, _path: str) -> bool:
    status = os.fstat(fd)
    return _is_bare(status) and stat.S_IMODE(status.st_mode) == _READY


def _is_untouched(fd: int, _path: str) -> bool:
    return _is_bare(os.fstat(fd))


def _is_bare(status: os.stat_result) -> bool:
    """Tell whether nobody has filled it, given it another name, or removed it."""
    return status.st_size == 0 and status.st_nlink == 1
