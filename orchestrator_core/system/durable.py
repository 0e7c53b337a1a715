"""
Durable, private files.

- When a call returns, its content is on the disk; otherwise the call raises.
- A replaced file has its old or its new content at every instant, whatever is killed.
- Files have mode 0600, directories 0700. A name that belongs to a symlink, a FIFO or another
  user's file is refused, never followed.

An error of the file system is raised as :class:`StorageError`, which names the action, the
path and a remedy. ``FileNotFoundError`` and ``FileExistsError`` pass unchanged where a function
documents them.

All calls go through ``os``: tests inject failures there, and pathlib is slower.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    StrPath = str | os.PathLike[str]
    Fingerprint = tuple[int, int, int, int]

_CHUNK = 1 << 16  #: Bytes of one read.
STATE_UNKNOWN = "whether it reached the disk is unknown: read it again before going on"

# --- reading and creating ------------------------------------------------------------------


def open_private(path: StrPath, flags: int) -> int:
    """
    Open a regular file of this user, and return its descriptor.

    A symlink as the last part is not followed, a FIFO is not waited for, and programs do not
    inherit the descriptor. ``O_CREAT`` creates the file with mode 0600. The caller makes the
    *name* of a new file durable (:func:`fsync_directory`).

    Raises:
        FileNotFoundError: The file does not exist, without ``O_CREAT``.
        FileExistsError: The file exists, with ``O_EXCL``.
        StorageError: It is not a regular file, has another owner, or was refused.
    """
    with storage_errors("open", path, allow=(FileNotFoundError, FileExistsError)):
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            _check_owner(path, os.fstat(fd), stat.S_ISREG, "a regular file")
        except BaseException:
            os.close(fd)
            raise
    return fd


def open_own(path: StrPath, flags: int) -> int:
    """
    Open a file that only this library creates, as :func:`open_private` does.

    What has its name and is no regular file is set aside: see :mod:`.obstacles`.
    """
    try:
        return open_private(path, flags)
    except StorageError:
        from orchestrator_core.system import obstacles  # noqa: PLC0415 - seldom needed

        if obstacles.clear_file(path) is None:
            raise
        return open_private(path, flags)


def read(path: StrPath, *, own: bool = False) -> bytes:
    """
    Return the whole content of a regular file of this user; *own* as in :func:`open_own`.

    Raises:
        FileNotFoundError: The file does not exist.
        StorageError: It is not a regular file, has another owner, or was refused.
    """
    fd = open_own(path, os.O_RDONLY) if own else open_private(path, os.O_RDONLY)
    try:
        with storage_errors("read", path):
            return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Return the rest of *fd* up to its end."""
    pieces = []
    while piece := os.read(fd, _CHUNK):
        pieces.append(piece)
    return b"".join(pieces)


def exists(path: StrPath) -> bool:
    """
    Return whether *path* names anything, even a symlink without a target.

    Raises:
        StorageError: The answer is unknown.
    """
    with storage_errors("look for", path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Return the parts of a file's status that change when its content does."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def fingerprint_at(path: StrPath) -> Fingerprint | None:
    """Return the fingerprint of the file at *path*; None if there is none, or it is unknown."""
    try:
        return fingerprint(os.lstat(path))
    except OSError:
        return None


def create(path: StrPath, data: bytes, *, durable: bool = True) -> None:
    """
    Create a new file with *data* as its content; leave no file behind on failure.

    With ``durable=False`` a power failure may remove the file, or its content.

    Raises:
        FileExistsError: The name is taken; its file was left alone.
        StorageError: The file system refused.
    """
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        _write_and_close(fd, data, path, durable=durable)
    except BaseException:
        _unlink_quietly(path)
        raise
    if durable:
        fsync_directory(parent_of(path))


# --- changing -------------------------------------------------------------------------------


def replace(path: StrPath, data: bytes, *, mode: int = 0o600) -> None:
    """
    Replace the content of *path* atomically and durably; an existing file keeps its mode.

    Readers see the old content or the new one. After a failure the old content stands, unless
    the error says that the outcome is unknown.

    Raises:
        StorageError: *path* is not a regular file of this user, or the disk refused.
    """
    replace_unsynced(path, data, mode=mode)
    sync_name(path)


def replace_unsynced(
    path: StrPath,
    data: bytes,
    *,
    mode: int = 0o600,
    temp_path: StrPath | None = None,
    durable: bool = True,
) -> None:
    """
    Do the first half of :func:`replace`: all except syncing the new name.

    All readers see the new content from now on. The content itself is on the disk, but until
    :func:`sync_name` a power failure may bring the old file back. The content is first written
    to *temp_path*, whatever file is there, or by default to a new file beside *path*. With
    ``durable=False`` the content is not synced either.
    """
    mode = _mode_of(path, default=mode)
    directory, name = os.path.split(path)
    temporary = temp_path or f"{directory or '.'}/.{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    with storage_errors("write", path):
        opens, flags = (open_own, os.O_TRUNC) if temp_path else (open_private, os.O_EXCL)
        fd = opens(temporary, os.O_WRONLY | os.O_CREAT | flags)
    try:
        _write_and_close(fd, data, path, mode=mode, durable=durable)
        with storage_errors("replace", path):
            os.rename(temporary, path)
    except BaseException:
        _unlink_quietly(temporary)
        raise


def sync_name(path: StrPath) -> None:
    """Do the second half of :func:`replace`: make the new file under *path* durable."""
    try:
        fsync_directory(parent_of(path))
    except StorageError as error:
        message = f"{path} was replaced, but {error}"
        raise StorageError(message, hint=STATE_UNKNOWN) from error.__cause__


def remove_stale_temps(path: Path) -> None:
    """
    Remove the temporary files that killed writers of *path* left beside it.

    The caller holds the lock of all writers of *path*: no live writer's file is removed.
    """
    prefix = f".{path.name}."
    with storage_errors("list", path.parent), os.scandir(path.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(".tmp")]
    for name in names:
        _unlink_quietly(path.parent / name)


def append_line(path: StrPath, line: bytes) -> None:
    """
    Append one line durably to a file with any number of concurrent writers.

    One call writes the whole line, so lines never mix. A line after a torn line starts on a
    new one. A missing file is created.

    Raises:
        StorageError: The file system refused; a torn line may remain.
    """
    with storage_errors("append to", path):
        fd = open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(fd).st_size
            is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            write_all(fd, (b"\n" if is_torn else b"") + line.rstrip(b"\n") + b"\n")
            fsync(fd)
        finally:
            os.close(fd)
    if size == 0:  # The name may be new, too.
        fsync_directory(parent_of(path))


class AppendedLine:
    """A line that :func:`append_line` appends, and that its only writer may take back."""

    def __init__(self, path: StrPath, line: bytes) -> None:
        self._path, self._line = path, line
        self._size_before: int | None = None  #: None: not appended.

    def append(self) -> None:
        """Append the line; see :func:`append_line`."""
        with storage_errors("inspect", self._path):
            try:
                self._size_before = os.lstat(self._path).st_size
            except FileNotFoundError:
                self._size_before = 0
        append_line(self._path, self._line)

    def withdraw(self) -> None:
        """
        Remove the line, if it was appended and is still the last one.

        The caller holds the lock that all writers of the file hold. The removal is best effort:
        a file system that refuses it may refuse anything.
        """
        if self._size_before is None:
            return
        with contextlib.suppress(OSError, StorageError):
            fd = open_private(self._path, os.O_RDWR)
            try:
                added = os.pread(fd, len(self._line) + 3, self._size_before)
                if added.strip(b"\n") == self._line.strip(b"\n"):
                    os.ftruncate(fd, self._size_before)
                    fsync(fd)
            finally:
                os.close(fd)


def write_all(fd: int, data: bytes, *, offset: int | None = None) -> None:
    """
    Write all of *data* at the position of *fd*, or at *offset*.

    Raises:
        OSError: A part of the data may have been written.
    """
    rest: bytes | memoryview = data
    while rest:
        written = os.write(fd, rest) if offset is None else os.pwrite(fd, rest, offset)
        rest = memoryview(rest)[written:]
        if offset is not None:
            offset += written


# --- removing -------------------------------------------------------------------------------


def remove(path: StrPath, *, durable: bool = True) -> int:
    """
    Remove a file or a symlink, and return its size in bytes; 0 if it does not exist.

    With ``durable=False`` a power failure may undo the removal. One :func:`fsync_directory`
    then makes several removals durable.

    Raises:
        StorageError: It is a directory, or the file system refused.
    """
    with storage_errors("remove", path):
        try:
            size = os.lstat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
    if durable:
        fsync_directory(parent_of(path))
    return size


# --- directories ----------------------------------------------------------------------------


def parent_of(path: StrPath) -> str:
    """Return the directory that contains *path*."""
    return os.path.dirname(os.fspath(path).rstrip("/")) or "."


def make_directory(path: StrPath) -> bool:
    """
    Ensure that *path* is a directory of this user; return whether this call created it.

    New directories, missing parents included, have mode 0700 and are durable. An existing
    directory keeps its mode.

    Raises:
        StorageError: The name belongs to something else or another user, or was refused.
    """
    # If lexists hides an error, lstat raises it.
    is_new = not os.path.lexists(path) and _mkdirs(path)
    with storage_errors("use", path):
        status = os.lstat(path)
    _check_owner(path, status, stat.S_ISDIR, "a directory")
    return is_new


def fsync_directory(path: StrPath) -> None:
    """
    Make the names in a directory durable: the created, renamed and removed ones.

    Raises:
        StorageError: The disk refused; which of the names are durable is unknown.
    """
    with storage_errors("sync directory", path, hint=STATE_UNKNOWN):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fsync(fd)
        finally:
            os.close(fd)


# --- internals ------------------------------------------------------------------------------


def _write_and_close(
    fd: int, data: bytes, path: StrPath, *, mode: int = 0o600, durable: bool = True
) -> None:
    with storage_errors("write", path):
        try:
            os.fchmod(fd, mode)  # The exact mode, without the umask.
            write_all(fd, data)
            if durable:
                fsync(fd)
        finally:
            os.close(fd)


def fsync(fd: int) -> None:
    """
    Make a file's content durable.

    Raises:
        OSError: What is on the disk now is unknown.
    """
    # Never retried: after a failure the kernel may have dropped the dirty pages, and a
    # second fsync would report success without them.
    os.fsync(fd)
    if sys.platform == "darwin":  # There, fsync leaves the data in the drive's cache.
        import fcntl  # noqa: PLC0415 - for macOS only

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def _unlink_quietly(path: StrPath) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _mode_of(path: StrPath, *, default: int) -> int:
    with storage_errors("replace", path):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return default
    _check_owner(path, status, stat.S_ISREG, "a regular file")
    return stat.S_IMODE(status.st_mode) & 0o777


def _mkdirs(path: StrPath) -> bool:
    parent = parent_of(path)
    with storage_errors("make directory", path):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if os.path.lexists(parent):  # The parent is a symlink without a target.
                raise
            _mkdirs(parent)
            return _mkdirs(path)
    fsync_directory(parent)
    return True


def _check_owner(
    path: StrPath, status: os.stat_result, has_type: Callable[[int], bool], file_type: str
) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise StorageError(f"{path} is a symlink", hint="it is not followed; remove it")
    if not has_type(status.st_mode):
        raise StorageError(f"{path} is not {file_type}", hint="move it away")
    if status.st_uid != os.geteuid():
        raise StorageError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()}",
            hint="use another root, or run as its owner",
        )
