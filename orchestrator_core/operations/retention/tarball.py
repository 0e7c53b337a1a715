"""
A tar file of a directory, and the proof that it holds what was there.

Each file is marked before it is packed, and has to bear the same mark afterwards;
its content is summed up on the way in, and reading the tar file back has to give
the same sums. A link is packed as a link, and never followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from typing import TYPE_CHECKING, NoReturn, Protocol

import attrs

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20


@attrs.frozen
class FileStamp:
    """By which it is known that nobody has touched a file since."""

    kind: int  #: As ``stat`` has it.
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Return the mark of a file's status."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:  # The names in it are marked themselves.
            return cls(kind, 0, 0, status.st_ino)
        return cls(kind, status.st_size, status.st_mtime_ns, status.st_ino)


def stamp_tree(top: Path) -> dict[str, FileStamp]:
    """
    Return the marks of a directory, as ``.``, and of all in it, by their paths below it.

    Raises:
        StorageError: A directory cannot be read.
    """
    with storage_errors("read", top):
        found = {".": FileStamp.of(os.lstat(top))}
        for place, directories, files in os.walk(top, onerror=_raise):
            for name in (*directories, *files):
                path = f"{place}/{name}"
                found[os.path.relpath(path, top)] = FileStamp.of(os.lstat(path))
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


@attrs.frozen
class Member:
    """One name in a tar file, with all of it that can be compared."""

    name: str
    kind: bytes  #: As tar has it: a file, a directory, a link …
    mode: int
    size: int
    link: str
    digest: str  #: Of a file's content.

    @classmethod
    def of(cls, info: tarfile.TarInfo, digest: str = "") -> Member:
        """Return a tar file's entry, to be compared."""
        return cls(info.name, info.type, info.mode & 0o7777, info.size, info.linkname, digest)


@attrs.define
class Packing:
    """A tar file in the making."""

    tar: tarfile.TarFile
    members: list[Member] = attrs.field(factory=list)
    skipped: list[str] = attrs.field(factory=list)  #: Sockets, which no tar file can hold.

    def add_tree(self, top: Path, name: str, marks: Mapping[str, FileStamp]) -> None:
        """
        Pack all that is marked of a directory, under *name*.

        Raises:
            StorageError: Something cannot be read, or is not what was marked.
        """
        for relative in sorted(marks):
            below = "" if relative == "." else f"/{relative}"
            self.add(top / relative, f"{name}{below}", marks[relative])

    def add(self, path: Path, name: str, mark: FileStamp) -> None:
        """Pack one file, link or directory under *name*; raises as :meth:`add_tree`."""
        with storage_errors("pack", path):
            if mark.kind == stat.S_IFREG:
                self._add_file(path, name, mark)
            else:
                self._add_other(path, name, mark)

    def _add_file(self, path: Path, name: str, mark: FileStamp) -> None:
        with open(path, "rb", opener=lambda p, _: os.open(p, _READING)) as file:
            _insist(path, mark, os.fstat(file.fileno()))
            info = self.tar.gettarinfo(arcname=name, fileobj=file)
            if info.isreg():
                summing = _HashingReader(file)
                self.tar.addfile(info, summing)
                self.members.append(Member.of(info, summing.digest()))
            else:  # Another name of a file that is in it by now.
                self.tar.addfile(info)
                self.members.append(Member.of(info))
            _insist(path, mark, os.fstat(file.fileno()))

    def _add_other(self, path: Path, name: str, mark: FileStamp) -> None:
        _insist(path, mark, os.lstat(path))
        info = self.tar.gettarinfo(path, arcname=name)
        if info is None:
            self.skipped.append(name)
            return
        self.tar.addfile(info)
        self.members.append(Member.of(info))


def _insist(path: Path, mark: FileStamp, status: os.stat_result) -> None:
    if FileStamp.of(status) != mark:
        raise StorageError(f"{path} has changed meanwhile", hint="try again when nobody uses it")


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _HashingReader:
    """A file that is summed up while it is read."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._file.read(size)
        self._sum.update(piece)
        return piece

    def digest(self) -> str:
        return self._sum.hexdigest()


class FdWriter:
    """The end of a tar file that leads to the disk."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes, /) -> int:
        """Write all of it."""
        durable.write_all(self._fd, data)
        return len(data)


def pack(fd: int, fill: Callable[[Packing], None], *, compressed: bool) -> Packing:
    """
    Write a tar file, durably, of what *fill* adds; return what is in it.

    Raises:
        OSError: It could not be written.
        StorageError: As *fill* raises it.
    """
    mode = "w|gz" if compressed else "w|"
    with tarfile.open(  # type: ignore[call-overload]  # a stream needs no more than write
        mode=mode, fileobj=FdWriter(fd), format=tarfile.PAX_FORMAT, bufsize=_PIECE
    ) as tar:
        packing = Packing(tar)
        fill(packing)
    durable.fsync(fd)
    return packing


def read_back(fd: int) -> list[Member]:
    """
    Return what a tar file holds, all of it read and summed up.

    Raises:
        OSError, tarfile.TarError: It cannot be read.
    """
    found = []
    os.lseek(fd, 0, os.SEEK_SET)
    with (
        open(os.dup(fd), "rb", buffering=_PIECE) as file,  # noqa: PTH123 - a descriptor
        tarfile.open(fileobj=file, mode="r:*") as tar,
    ):
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            found.append(Member.of(info, "" if content is None else _digest(content)))
    return found


def _digest(content: _Readable) -> str:
    summing = _HashingReader(content)
    while summing.read(_PIECE):
        pass
    return summing.digest()
