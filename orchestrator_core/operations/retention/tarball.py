"""
A tar file of a directory, and the proof that its content is that of the directory.

- The state of each file is recorded before packing, and checked before and after its read.
- The content of each file is hashed before it is packed. A read of the complete tar file has to
  give the same hashes.
- A link is packed as a link, and never followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
from typing import TYPE_CHECKING, NoReturn

import attrs

from orchestrator_core.operations.retention.safe_dir import CHUNK, READ_ONLY, FdWriter, FileState
from orchestrator_core.system import durable, tree
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def stamp_tree(top: Path) -> dict[str, FileState]:
    """
    Return the states of a directory, as ``.``, and of all files in it, by relative path.

    Raises:
        StorageError: A directory cannot be read.
    """
    with storage_errors("read", top):
        found = {".": FileState.from_status(os.lstat(top))}
        for directory, subdirectories, files in tree.walk(os.fspath(top), onerror=_raise):
            for name in (*subdirectories, *files):
                path = f"{directory}/{name}"
                found[os.path.relpath(path, top)] = FileState.from_status(os.lstat(path))
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


@attrs.frozen
class Member:
    """One entry of a tar file, with all that can be compared."""

    name: str
    kind: bytes  #: The type flag of tar: a file, a directory, a link …
    mode: int
    size: int
    link: str
    digest: str  #: Of a file's content.

    @classmethod
    def from_info(cls, info: tarfile.TarInfo, digest: str = "") -> Member:
        """Return an entry as tarfile describes it."""
        return cls(info.name, info.type, info.mode & 0o7777, info.size, info.linkname, digest)


@attrs.define
class Tarball:
    """A tar file that is being written."""

    tar: tarfile.TarFile
    members: list[Member] = attrs.field(factory=list)
    skipped: list[str] = attrs.field(factory=list)  #: Sockets, which a tar file cannot hold.

    def add_tree(self, top: Path, name: str, states: Mapping[str, FileState]) -> None:
        """
        Add a directory and all files in *states*, under *name*.

        Raises:
            StorageError: A file cannot be read, or has changed.
        """
        for relative in sorted(states):
            below = "" if relative == "." else f"/{relative}"
            self.add(top / relative, f"{name}{below}", states[relative])

    def add(self, path: Path, name: str, state: FileState) -> None:
        """Add one file, link or directory under *name*; raises as :meth:`add_tree`."""
        with storage_errors("pack", path):
            if state.kind == stat.S_IFREG:
                self._add_file(path, name, state)
                return
            state.check_unchanged(path, os.lstat(path))
            info = self.tar.gettarinfo(path, arcname=name)
            if info is None:
                self.skipped.append(name)
                return
            self.tar.addfile(info)
            self.members.append(Member.from_info(info))

    def _add_file(self, path: Path, name: str, state: FileState) -> None:
        with open(path, "rb", opener=lambda p, _: os.open(p, READ_ONLY)) as file:
            state.check_unchanged(path, os.fstat(file.fileno()))
            info = self.tar.gettarinfo(arcname=name, fileobj=file)
            digest = ""
            if info.isreg():  # Else a hard link.
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
            self.tar.addfile(info, file)
            self.members.append(Member.from_info(info, digest))
            state.check_unchanged(path, os.fstat(file.fileno()))


@contextlib.contextmanager
def write_tarball(fd: int, *, compressed: bool) -> Iterator[Tarball]:
    """
    Write a tar file of what the block adds; the file is durable when the block has ended.

    Raises:
        OSError: The file could not be written.
    """
    mode = "w|gz" if compressed else "w|"
    with tarfile.open(  # type: ignore[call-overload]  # a stream needs no more than write
        mode=mode, fileobj=FdWriter(fd), format=tarfile.PAX_FORMAT, bufsize=CHUNK
    ) as tar:
        yield Tarball(tar)
    durable.fsync(fd)


def read_back(fd: int) -> list[Member]:
    """
    Return the entries of a tar file, with hashes of what is read.

    Raises:
        OSError, tarfile.TarError: The file cannot be read.
    """
    found = []
    os.lseek(fd, 0, os.SEEK_SET)
    with (
        open(os.dup(fd), "rb", buffering=CHUNK) as file,  # noqa: PTH123 - a descriptor
        tarfile.open(fileobj=file, mode="r:*") as tar,
    ):
        for info in tar:
            content = tar.extractfile(info) if info.isreg() else None
            digest = hashlib.file_digest(content, "sha256").hexdigest() if content else ""  # type: ignore[arg-type]
            found.append(Member.from_info(info, digest))
    return found
