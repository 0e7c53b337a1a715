"""
Obstacles: what has the name of a file or a directory of this library, and is something else.

A program that may write below the root can put a directory, a FIFO or a symlink there. It is
neither followed nor removed. It gets another name in the same directory, which the caller
reports, so that no work waits for a person.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable, tree
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.system.durable import StrPath

_SUFFIX = ".set-aside-"


def clear_file(path: StrPath) -> str | None:
    """
    Set aside what is at *path*, unless that is a regular file, or nothing.

    Returns the obstacle's new path; None if there was none. A new name is durable.

    Raises:
        StorageError: The obstacle cannot be renamed.
    """
    return _clear(path, stat.S_ISREG)


def clear_directory(path: StrPath) -> str | None:
    """
    Set aside what is at *path*, unless that is a directory, or nothing; see :func:`clear_file`.

    A directory that its owner cannot use gets mode 0700.
    """
    moved = _clear(path, stat.S_ISDIR)
    if moved is None:
        with storage_errors("use", path), contextlib.suppress(FileNotFoundError):
            tree.make_writable(path)
    return moved


def _clear(path: StrPath, is_right: Callable[[int], bool]) -> str | None:
    # Most paths have no obstacle, and cost one system call.
    try:
        if is_right(os.lstat(path).st_mode):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # The next call has the same error, and a message.
    directory, name = durable.parent_of(path), os.path.basename(os.fspath(path).rstrip("/"))
    with storage_errors("set aside", path), contextlib.ExitStack() as stack:
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, parent)
        try:
            # Of several processes that see the obstacle, one moves it, and none its successor.
            fcntl.flock(parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{path} is in the way, and {directory} is locked") from None
        with contextlib.suppress(FileNotFoundError):
            if is_right(os.lstat(name, dir_fd=parent).st_mode):
                return None
            moved = f"{name}{_SUFFIX}{os.urandom(4).hex()}"
            os.rename(name, moved, src_dir_fd=parent, dst_dir_fd=parent)
            durable.fsync(parent)
            return f"{directory}/{moved}"
    return None
