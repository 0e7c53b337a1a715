"""
Durable, private files: the whole recipe, once.

What is written here is on the disk when the call returns, or the call raises.
A file that is replaced is the old one or the new one at every instant, whatever
is killed. Files are 0600, directories 0700; a name that turns out to be a
symlink, a FIFO or another user's file is refused, not followed. All is done by
calls of ``os``: there the tests break in, and pathlib is slow.

Refusals of the file system come out as :class:`StorageError`, which says what
was tried, on which path, and what to do. ``FileNotFoundError`` and
``FileExistsError`` are answers rather than refusals: where a function
documents them, they pass unchanged.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system.os_errors import storage_error, storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    StrPath = str | os.PathLike[str]
    Fingerprint = tuple[int, int, int, int]

_CHUNK = 1 << 14  #: Most files of ours are read by one call, and the end is found by the next.
_STATE_UNKNOWN = "whether it reached the disk is unknown: read it again before going on"

# --- reading and creating ------------------------------------------------------------------


def open_private(path: StrPath, flags: int) -> int:
    """
    Open a regular file that is ours, and return its descriptor.

    Never follows a symlink in the last place, never waits for the other end of
    a FIFO, is not inherited by programs we start. A file made by ``O_CREAT`` is
    0600; that its *name* is durable is up to the caller (:func:`fsync_directory`).

    Raises:
        FileNotFoundError: There is none (and ``O_CREAT`` was not asked).
        FileExistsError: There is one, and ``O_EXCL`` was asked.
        StorageError: Not a regular file, not ours, or refused.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            _check_owner(path, os.fstat(fd), stat.S_ISREG, "a regular file")
        except BaseException:
            os.close(fd)
            raise
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise storage_error("open", path, error) from error
    return fd


def read(path: StrPath) -> bytes:
    """
    Return the whole content of a file of ours.

    Raises:
        FileNotFoundError: There is none.
        StorageError: Not a regular file, not ours, or refused.
    """
    fd = open_private(path, os.O_RDONLY)
    try:
        return read_all(fd)
    except OSError as error:
        raise storage_error("read", path, error) from error
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Return what is left to read of *fd*, however the kernel portions it."""
    pieces = [os.read(fd, _CHUNK)]
    if len(pieces[0]) == _CHUNK:
        # As much as it seems to have, and a byte more: then the next read is the last.
        pieces.append(os.read(fd, max(os.fstat(fd).st_size - _CHUNK, 0) + 1))
    while pieces[-1]:
        pieces.append(os.read(fd, 1 << 16))
    return b"".join(pieces)


def exists(path: StrPath) -> bool:
    """
    Tell whether anything has that name, be it a symlink that leads nowhere.

    Raises:
        StorageError: It cannot be told, which is no "no".
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise storage_error("look for", path, error) from error
    return True


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Return what tells one content of a file from every other, as far as its status can."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def fingerprint_at(path: StrPath) -> Fingerprint | None:
    """Return which one is at *path*; None if nothing is, or it cannot be told."""
    try:
        return fingerprint(os.lstat(path))
    except OSError:
        return None


def create(path: StrPath, data: bytes, *, durable: bool = True) -> None:
    """
    Make a new file with *data* in it; leave none behind on failure.

    With ``durable=False`` a power failure may forget it, or empty it.

    Raises:
        FileExistsError: The name is taken; what is there was left alone.
        StorageError: Refused.
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
    Give *path* a new content in one instant, durably; an existing file keeps its mode.

    Readers see the old content or the new one. On failure the old one stands,
    unless the message says that it is unknown which of the two did.

    Raises:
        StorageError: *path* is not a regular file of ours, or the disk refused.
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
    Do the first half of :func:`replace`: all but seeing the new name to the disk.

    From now on everybody reads the new content; it is whole on the disk already.
    Until :func:`sync_name`, a power failure may bring the old one back. It is written
    beside *path* under a name that nobody has; with *temp_path*, under that name, whatever
    was there. With ``durable=False`` its content is not seen to the disk either.
    """
    mode = _mode_of(path, default=mode)
    directory, name = os.path.split(path)
    temporary = temp_path or f"{directory or '.'}/.{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    how = os.O_TRUNC if temp_path else os.O_EXCL
    with storage_errors("write", path):
        fd = open_private(temporary, os.O_WRONLY | os.O_CREAT | how)
    try:
        _write_and_close(fd, data, path, mode=mode, durable=durable)
        with storage_errors("replace", path):
            os.rename(temporary, path)
    except BaseException:
        _unlink_quietly(temporary)
        raise


def sync_name(path: StrPath) -> None:
    """Do the second half of :func:`replace`: once this returns, the new content stays."""
    try:
        fsync_directory(parent_of(path))
    except StorageError as error:
        raise StorageError(
            f"{path} was replaced, but {error}", hint=_STATE_UNKNOWN
        ) from error.__cause__


def remove_stale_temps(path: Path) -> None:
    """
    Remove what killed writers of *path* left beside it.

    Only for whoever holds the lock that all writers of *path* take: a leftover
    of a living writer would be its work in hand.
    """
    prefix = f".{path.name}."
    with storage_errors("list", path.parent), os.scandir(path.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(".tmp")]
    for name in names:
        _unlink_quietly(path.parent / name)


def append_line(path: StrPath, line: bytes) -> None:
    """
    Add one line to a file that many may add to at once, durably.

    The line is written by one call, so lines never mix. After somebody's torn
    line it starts on a new one. The file is made if there is none.

    Raises:
        StorageError: Refused; a torn line may remain.
    """
    try:
        fd, made = open_private(path, os.O_RDWR | os.O_APPEND), False
    except FileNotFoundError:
        with storage_errors("create", path):
            fd, made = open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), True
    try:
        with storage_errors("append to", path):
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            write_all(fd, (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n")
            fsync(fd)
    finally:
        os.close(fd)
    if made:
        fsync_directory(parent_of(path))


def write_all(fd: int, data: bytes, *, offset: int | None = None) -> None:
    """
    Write all of *data* where *fd* is, or at *offset*, however the kernel portions it.

    Raises:
        OSError: As it came; a part may have been written.
    """
    rest: bytes | memoryview = data
    while rest:
        written = os.write(fd, rest) if offset is None else os.pwrite(fd, rest, offset)
        if written == len(rest):  # as good as always
            return
        rest = memoryview(rest)[written:]
        if offset is not None:
            offset += written


# --- removing -------------------------------------------------------------------------------


def remove(path: StrPath, *, durable: bool = True) -> int:
    """
    Remove a file, and return how many bytes it had; 0 if there was none.

    A symlink is removed itself. With ``durable=False`` the removal may be
    forgotten by a power failure; one :func:`fsync_directory` settles many.

    Raises:
        StorageError: A directory, or refused.
    """
    with storage_errors("remove", path, allow=(FileNotFoundError,)):
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
    """Return the directory that *path* is in."""
    return os.path.dirname(os.fspath(path).rstrip("/")) or "."


def make_directory(path: StrPath) -> bool:
    """
    See that *path* is a directory of ours; tell whether it had to be made.

    It and its missing parents are made 0700, and durable. One that is there keeps its mode.

    Raises:
        StorageError: Something else has the name, it is another user's, or refused.
    """
    # What cannot be looked at is refused by what follows.
    made = not os.path.lexists(path) and _mkdirs(path)
    with storage_errors("use", path):
        status = os.lstat(path)
    _check_owner(path, status, stat.S_ISDIR, "a directory")
    return made


def fsync_directory(path: StrPath) -> None:
    """
    See the names in a directory to the disk: what was created, renamed, removed.

    Raises:
        StorageError: The disk refused: what became of those names is unknown.
    """
    try:
        with storage_errors("sync directory", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fsync(fd)
            finally:
                os.close(fd)
    except StorageError as error:
        raise StorageError(str(error), hint=_STATE_UNKNOWN) from error.__cause__


# --- below the surface ----------------------------------------------------------------------


def _write_and_close(
    fd: int, data: bytes, path: StrPath, *, mode: int = 0o600, durable: bool = True
) -> None:
    """Write all, set the mode, see it to the disk, and close *fd*, whatever happens."""
    with storage_errors("write", path):
        try:
            os.fchmod(fd, mode)  # exact, whatever the umask made of it
            write_all(fd, data)
            if durable:
                fsync(fd)
        finally:
            os.close(fd)


def fsync(fd: int) -> None:
    """
    See a file's content to the disk.

    Raises:
        OSError: As it came: what is on the disk now is unknown.
    """
    # Never retried: after a failure the kernel may have dropped the dirty
    # pages, and a second fsync would report a success that is none.
    os.fsync(fd)
    if sys.platform == "darwin":  # there, fsync leaves the data in the drive's cache
        import fcntl  # noqa: PLC0415 - for macOS only

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def _unlink_quietly(path: StrPath) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _mode_of(path: StrPath, *, default: int) -> int:
    with storage_errors("replace", path, allow=(FileNotFoundError,)):
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
            if os.path.lexists(parent):  # A symlink that leads nowhere.
                raise
            _mkdirs(parent)
            return _mkdirs(path)
    fsync_directory(parent)
    return True


def _check_owner(
    path: StrPath, status: os.stat_result, is_kind: Callable[[int], bool], kind: str
) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise StorageError(f"{path} is a symlink", hint="it is not followed; remove it")
    if not is_kind(status.st_mode):
        raise StorageError(f"{path} is not {kind}", hint="move it away")
    if status.st_uid != os.geteuid():
        raise StorageError(
            f"{path} belongs to user {status.st_uid}, and we are {os.geteuid()}",
            hint="use a root of your own, or run as its owner",
        )
