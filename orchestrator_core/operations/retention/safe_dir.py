"""
A directory that is held open, and in which no symlink is followed.

Between the scan of a file and its removal, another process may put something else there.
Therefore each directory is opened once, component by component from the root, and no component
may be a symlink. All later calls are relative to that descriptor, and a file is removed only
if it is still the scanned one.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import stat
import zlib
from typing import TYPE_CHECKING, BinaryIO, Self

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, locks, move
from orchestrator_core.system.gzip_read import GZ
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CHUNK = 1 << 20  #: Bytes.
_LEVEL = 6  #: Of compression: the default of gzip(1).


@attrs.frozen
class FileState:
    """The state of a file, by which a later change is noticed."""

    kind: int  #: The file type bits of ``stat``.
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def from_status(cls, status: os.stat_result) -> Self:
        """Return the state; of a directory, whose files have their own states, the inode only."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            return cls(kind, 0, 0, status.st_ino)
        return cls(kind, status.st_size, status.st_mtime_ns, status.st_ino)

    def check_unchanged(self, path: Path, status: os.stat_result) -> None:
        """
        Check that a file still has this state.

        Raises:
            StorageError: The file has changed.
        """
        if FileState.from_status(status) != self:
            raise StorageError(
                f"{path} has changed meanwhile", hint="try again when no process writes to it"
            )


@attrs.frozen
class SafeDir:
    """One directory, held open."""

    path: Path
    fd: int

    @classmethod
    @contextlib.contextmanager
    def open(cls, root: Path, *parts: str) -> Iterator[Self]:
        """
        Open the directory *parts* below *root*.

        Raises:
            FileNotFoundError: There is no such directory.
            StorageError: A part is a symlink or no directory, another user owns the directory,
                or the system refuses.
        """
        path = root.joinpath(*parts)
        with contextlib.ExitStack() as stack:
            with storage_errors("open directory", path, allow=(FileNotFoundError,)):
                fd = None
                for name in (os.fspath(root), *parts):
                    fd = os.open(name, DIRECTORY, dir_fd=fd)
                    stack.callback(os.close, fd)
                assert fd is not None  # noqa: S101 - there is always the root
                if os.fstat(fd).st_uid != os.geteuid():
                    raise StorageError(f"{path} is owned by another user", hint="it is left alone")
            yield cls(path, fd)

    def files(self) -> dict[str, FileState]:
        """Return the regular files of this user, by name."""
        found = {}
        with storage_errors("list", self.path), os.scandir(self.fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    found[entry.name] = FileState.from_status(status)
        return found

    def remove(self, name: str, state: FileState) -> int:
        """
        Remove a file, and return its size in bytes. :meth:`sync` makes the removal durable.

        Raises:
            FileNotFoundError: The file is gone.
            StorageError: The file has changed, or the system refuses.
        """
        with storage_errors("remove", self.path / name, allow=(FileNotFoundError,)):
            self._check_unchanged(name, state)
            os.unlink(name, dir_fd=self.fd)
        return state.size

    def sync(self) -> None:
        """Make all names in the directory durable."""
        with storage_errors("sync directory", self.path):
            durable.fsync(self.fd)

    def _check_unchanged(self, name: str, state: FileState) -> None:
        state.check_unchanged(self.path / name, os.lstat(name, dir_fd=self.fd))

    # --- compression ---------------------------------------------------------------------------

    def compress(self, name: str, state: FileState) -> int:
        """
        Replace a file by a compressed one with the same time, and return the freed bytes.

        The compressed file is complete, verified and durable before the other is removed. A
        crash at any instant leaves the content under one name or both, and the next
        compression finishes. The new name is the old one, or the next free one, with ``.gz``.

        Raises:
            FileNotFoundError: The file is gone.
            StorageError: The file has changed, or the system refuses; the file is as it was.
        """
        with storage_errors("compress", self.path / name, allow=(FileNotFoundError,)):
            source = os.open(name, READ_ONLY, dir_fd=self.fd)
            try:
                self._check_unchanged(name, state)
                target = self._existing_gzip(name, source) or self._new_gzip(name, state, source)
                size = os.lstat(target, dir_fd=self.fd).st_size
                self._check_unchanged(name, state)
                os.unlink(name, dir_fd=self.fd)
                durable.fsync(self.fd)
            finally:
                os.close(source)
        return state.size - size

    def _existing_gzip(self, name: str, source: int) -> str | None:
        """Return the complete compressed file of a killed collection; None if there is none."""
        candidate = name + GZ
        try:
            fd = os.open(candidate, READ_ONLY, dir_fd=self.fd)
        except OSError:
            return None
        try:
            if not _is_copy(fd, source):
                return None
        finally:
            os.close(fd)
        durable.fsync(self.fd)  # Its name may not be durable yet.
        return candidate

    def _new_gzip(self, name: str, state: FileState, source: int) -> str:
        temporary = f".{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=self.fd)
        try:
            try:
                os.fchmod(fd, 0o600)
                _write_gzip(source, fd)
                if not _is_copy(fd, source):
                    raise StorageError(f"{self.path / name}: the compressed copy is different")
                os.utime(fd, ns=(os.fstat(source).st_atime_ns, state.mtime_ns))
                durable.fsync(fd)
            finally:
                os.close(fd)
            target = self._link(temporary, self.path / name)
            durable.fsync(self.fd)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.fd)
        return target

    def _link(self, temporary: str, source: Path) -> str:
        """Give the temporary file its final name, or the next free one, and return the name."""
        for name in move.numbered_names(source.name):
            with contextlib.suppress(FileExistsError):
                os.link(temporary, name + GZ, src_dir_fd=self.fd, dst_dir_fd=self.fd)
                return name + GZ
        raise AssertionError("unreachable: there is always another name")


@attrs.frozen
class FdWriter:
    """The stream that gzip and tarfile write to: a descriptor."""

    fd: int

    def write(self, data: bytes, /) -> int:
        """Write all bytes."""
        durable.write_all(self.fd, data)
        return len(data)


@contextlib.contextmanager
def locked_directory(path: Path, action: str) -> Iterator[bool]:
    """
    Open a directory for *action*, and hold its lock; the block gets whether it was free.

    Raises:
        FileNotFoundError: There is no such directory.
        StorageError: It cannot be opened.
    """
    with storage_errors(action, path, allow=(FileNotFoundError,)):
        fd = os.open(path, DIRECTORY)
    try:
        yield locks.try_lock(fd)
    finally:
        os.close(fd)


def _reader(fd: int) -> BinaryIO:
    """Return a reader of a file from its start; the descriptor stays open."""
    os.lseek(fd, 0, os.SEEK_SET)
    return open(fd, "rb", closefd=False)


def _write_gzip(source: int, target: int) -> None:
    with (
        _reader(source) as content,
        gzip.GzipFile("", "wb", _LEVEL, fileobj=FdWriter(target)) as packed,  # type: ignore[call-overload]  # needs no more than write
    ):
        shutil.copyfileobj(content, packed, CHUNK)


def _is_copy(packed: int, source: int) -> bool:
    """Return whether a compressed file is complete and has the content of another file."""
    with _reader(source) as content, _reader(packed) as file, gzip.open(file) as unpacked:
        try:
            while (chunk := content.read(CHUNK)) == unpacked.read(CHUNK):
                if not chunk:
                    return True
        except (EOFError, gzip.BadGzipFile, zlib.error):
            pass  # The compressed file is incomplete or damaged.
    return False
