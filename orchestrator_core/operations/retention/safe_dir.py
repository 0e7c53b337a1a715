"""
A directory held open, in which nothing is reached through a link.

Whoever cleans up is handed names, and between looking and removing somebody may
put something else there. So each directory is opened once, step by step from the
root, no step being a symlink; all that follows is done below that descriptor, and
a file is removed only if it is still the one that was looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from typing import TYPE_CHECKING, Self

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, move
from orchestrator_core.system.gzip_read import GZ
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 20
_GZIP = 31  #: What zlib calls the gzip format, with its checksum.


@attrs.frozen
class FileState:
    """A regular file of ours, as it was when it was looked at."""

    name: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, name: str, status: os.stat_result) -> Self:
        """Return what is to be remembered of a file's status."""
        return cls(name, status.st_size, status.st_mtime_ns, status.st_ino)


@attrs.frozen
class SafeDir:
    """One directory, held open."""

    path: Path
    fd: int

    @classmethod
    @contextlib.contextmanager
    def open(cls, root: Path, *parts: str) -> Iterator[Self]:
        """
        Hold the directory that *parts* lead to from *root*.

        Raises:
            FileNotFoundError: There is none.
            StorageError: A part is a symlink or no directory, it is another user's, or refused.
        """
        path = root.joinpath(*parts)
        with contextlib.ExitStack() as stack:
            with storage_errors("open directory", path, allow=(FileNotFoundError,)):
                fd = _enter(stack, os.fspath(root), None)
                for part in parts:
                    fd = _enter(stack, part, fd)
                if os.fstat(fd).st_uid != os.geteuid():
                    raise StorageError(f"{path} is another user's", hint="it is left alone")
            yield cls(path, fd)

    def files(self) -> list[FileState]:
        """Return the regular files of ours in it; all else is passed over."""
        found = []
        with storage_errors("list", self.path), os.scandir(self.fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    found.append(FileState.of(entry.name, status))
        return found

    def has(self, name: str) -> bool:
        """Tell whether anything has that name."""
        try:
            os.lstat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def remove(self, seen: FileState) -> int:
        """
        Remove a file, and return its bytes. :meth:`settle` makes it durable.

        Raises:
            FileNotFoundError: It is gone.
            StorageError: It is another by now, or refused.
        """
        with storage_errors("remove", self.path / seen.name, allow=(FileNotFoundError,)):
            self._insist(seen)
            os.unlink(seen.name, dir_fd=self.fd)
        return seen.size

    def settle(self) -> None:
        """See all names in it to the disk."""
        with storage_errors("sync directory", self.path):
            durable.fsync(self.fd)

    def _insist(self, seen: FileState) -> None:
        if FileState.of(seen.name, os.lstat(seen.name, dir_fd=self.fd)) != seen:
            raise StorageError(f"{self.path / seen.name} has changed meanwhile")

    # --- compressing ---------------------------------------------------------------------------

    def compress(self, seen: FileState) -> int:
        """
        Put a compressed file, of the same time, in the place of *seen*; return how much was won.

        It is written whole, read back and durable before the other goes: killed at
        any instant, all that was in it is under one name or both, and compressing
        again finishes. Its name is that of the other, or of the next free one, with
        ``.gz`` behind it.

        Raises:
            FileNotFoundError: It is gone.
            StorageError: It is another by now, or refused; it is as it was.
        """
        what = self.path / seen.name
        with storage_errors("compress", what, allow=(FileNotFoundError,)):
            source = os.open(seen.name, _READING, dir_fd=self.fd)
            try:
                self._insist(seen)
                target = self._twin(seen.name, source) or self._packed(seen, source)
                size = os.lstat(target, dir_fd=self.fd).st_size
                self._insist(seen)
                os.unlink(seen.name, dir_fd=self.fd)
                durable.fsync(self.fd)
            finally:
                os.close(source)
        return seen.size - size

    def _twin(self, name: str, source: int) -> str | None:
        """Return the compressed file that a killed one of us has left complete, if there is one."""
        candidate = name + GZ
        try:
            fd = os.open(candidate, _READING, dir_fd=self.fd)
        except OSError:
            return None
        try:
            if _sum_of_packed(fd) != _sum_of(source):
                return None
        finally:
            os.close(fd)
        durable.fsync(self.fd)  # Its name may not be durable yet.
        return candidate

    def _packed(self, seen: FileState, source: int) -> str:
        temporary = f".{seen.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=self.fd)
        try:
            try:
                os.fchmod(fd, 0o600)
                _pack(source, fd)
                if _sum_of_packed(fd) != _sum_of(source):
                    raise StorageError(f"{self.path / seen.name} was not read back as it is")
                status = os.fstat(source)
                os.utime(fd, ns=(status.st_atime_ns, seen.mtime_ns))
                durable.fsync(fd)
            finally:
                os.close(fd)
            target = self._named(temporary, self.path / seen.name)
            durable.fsync(self.fd)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.fd)
        return target

    def _named(self, temporary: str, source: Path) -> str:
        """Give a file the name that it is to have, or the next one that is free."""
        for place in move.numbered_names(source.name):
            target = place + GZ
            try:
                os.link(temporary, target, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            except FileExistsError:
                continue
            return target
        raise AssertionError("unreachable: there is always another name")


_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _enter(stack: contextlib.ExitStack, name: str, above: int | None) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=above)
    stack.callback(os.close, fd)
    return fd


def _pieces(fd: int) -> Iterator[bytes]:
    offset = 0
    while piece := os.pread(fd, _PIECE, offset):
        yield piece
        offset += len(piece)


def _pack(source: int, target: int) -> None:
    packer = zlib.compressobj(wbits=_GZIP)
    for piece in _pieces(source):
        durable.write_all(target, packer.compress(piece))
    durable.write_all(target, packer.flush())


def _sum_of(fd: int) -> tuple[int, int]:
    """Return the length and the checksum of a file."""
    length = checksum = 0
    for piece in _pieces(fd):
        length += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return length, checksum


def _sum_of_packed(fd: int) -> tuple[int, int] | None:
    """Return the length and the checksum of what a compressed file holds; None if it is torn."""
    length = checksum = 0
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        for piece in _pieces(fd):
            for plain in _unpacked(unpacker, piece):
                length += len(plain)
                checksum = zlib.crc32(plain, checksum)
    except zlib.error:
        return None
    return (length, checksum) if unpacker.eof and not unpacker.unused_data else None


def _unpacked(unpacker: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """Yield what is in *piece*, a little at a time: it may be a thousand times as much."""
    while piece:
        yield unpacker.decompress(piece, _PIECE)
        piece = unpacker.unconsumed_tail
