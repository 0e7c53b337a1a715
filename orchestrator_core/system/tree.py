"""
The removal and the listing of a directory with all its content, however deep it is.

A hostile program may have put anything into the directory. So no symlink is followed, nor one
that replaces a directory meanwhile: all calls are relative to the descriptor of a directory.
"""

from __future__ import annotations

import itertools
import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    StrPath = str | os.PathLike[str]

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: StrPath) -> int:
    """
    Remove a directory with all its content, and return the size of its files in bytes.

    Anything else of that name is removed as well. The removal is durable. The parent of *path*
    must be a directory and no symlink. No symlink is followed. Directories that their owner
    made read-only are removed as well.
    Each directory inside is first moved up into *path*. So the depth has no limit: there is no
    recursion, no long path, and two descriptors are enough. After a crash, a second call
    removes the rest.

    Raises:
        FileNotFoundError: There is nothing of that name.
        OSError: Something in the directory cannot be removed, such as another user's file.
    """
    directory, name = os.path.split(os.fspath(path).rstrip("/"))
    parent = os.open(directory or ".", _FLAGS)
    try:
        freed = _remove(name, parent)
        os.fsync(parent)
    finally:
        os.close(parent)
    return freed


def _remove(name: str, parent: int) -> int:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent)
        return status.st_size
    make_writable(name, dir_fd=parent)
    top = os.open(name, _FLAGS, dir_fd=parent)
    try:
        freed = _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)
    return freed


def walk(
    top: str, *, onerror: Callable[[OSError], object]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """
    Yield each directory from *top* on, with the names of its directories and of all else.

    As :func:`os.walk`, which some Pythons limit to a depth of about 1,000. The caller may
    remove names of directories from the list, and these are left out.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        names: dict[bool, list[str]] = {True: [], False: []}
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    names[entry.is_dir(follow_symlinks=False)].append(entry.name)
        except OSError as error:
            onerror(error)
            continue
        yield directory, names[True], names[False]
        waiting += [f"{directory}/{name}" for name in reversed(names[True])]


def make_writable(directory: StrPath, *, dir_fd: int | None = None) -> None:
    """Let the owner of a directory list, empty and move it. Anything else is left as it is."""
    mode = os.stat(directory, dir_fd=dir_fd, follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode) or mode & stat.S_IRWXU == stat.S_IRWXU:
        return
    if sys.platform != "linux":
        os.chmod(directory, stat.S_IRWXU, dir_fd=dir_fd, follow_symlinks=False)
        return
    # Linux changes the mode of a symlink's target. A descriptor has no symlink any more.
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
    finally:
        os.close(handle)


def _empty(top: int) -> int:
    """Remove all that is in a directory; return the size of its files in bytes."""
    token, numbers = os.urandom(8).hex(), itertools.count()
    new_names = (f".removed-{token}-{number}" for number in numbers)
    waiting: list[str] = []  # Directories, all of them in the top one.
    freed = _take_from(top, top, waiting, new_names)
    while waiting:
        name = waiting.pop()
        directory = os.open(name, _FLAGS, dir_fd=top)
        try:
            freed += _take_from(directory, top, waiting, new_names)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)
    return freed


def _take_from(directory: int, top: int, waiting: list[str], new_names: Iterator[str]) -> int:
    """Remove the files of a directory, and move its directories to the top one."""
    freed = 0
    for name in os.listdir(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                make_writable(name, dir_fd=directory)
                new_name = next(new_names)
                os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=top)
                waiting.append(new_name)
            else:
                os.unlink(name, dir_fd=directory)
                freed += status.st_size
        except FileNotFoundError:
            continue  # Another process has removed it.
    return freed
