"""
Paths: their resolution, the limit of a socket's path, and who can replace what they lead to.

A path is safe from other users if none of them can rename, remove or create any part of it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107  #: Bytes in the path of a Unix socket.

_UNMAPPED_UID = 65534  #: In a user namespace: an owner from outside, such as the host's root.


def resolve(path: Path) -> Path:
    """
    Return *path* as an absolute path without symlinks; its last parts need not exist.

    Raises:
        OSError: The symlinks of the path form a loop; `pathlib` raises this on some Pythons only.
        ValueError: The path has a NUL in it.
    """
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # The error for a loop before Python 3.13.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        return path.resolve()


# --- other users ----------------------------------------------------------------------------------


def why_replaceable(directory: str | os.PathLike[str]) -> str:
    """
    Return how another user could replace a file in *directory*; empty if none can.

    The directory and all above it belong to this user or to root, and only these can write
    to them. In a sticky directory, such as ``/tmp``, other users cannot replace a file of
    this user. *directory* is an absolute path; the target of a symlink in it counts, too.
    """
    here, has_link = os.fspath(directory), False
    while True:
        try:
            status = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            pass  # Nothing is in it.
        except OSError as error:
            return f"{here} cannot be examined: {error.strerror}"
        else:
            has_link |= stat.S_ISLNK(status.st_mode)
            if reason := _why_open(here, status):
                return reason
        above = os.path.dirname(here)  # noqa: PTH120 - called for each question to tmux
        if above == here:
            break
        here = above
    return why_replaceable(os.path.realpath(directory)) if has_link else ""


def _why_open(path: str, status: os.stat_result) -> str:
    """Return how another user could replace what is in a directory, or a symlink's target."""
    if status.st_uid not in {os.geteuid(), 0, _UNMAPPED_UID}:
        return f"{path} belongs to user {status.st_uid}"
    if not stat.S_ISDIR(status.st_mode):
        return ""  # The target of a symlink is examined by itself.
    if status.st_mode & stat.S_ISVTX or not others_can_write(status):
        return ""
    return f"other users can write to {path}"


def others_can_write(status: os.stat_result) -> bool:
    """Return whether the mode lets another user write: every user, or the members of a group."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private_group(status.st_gid)


def _is_private_group(gid: int) -> bool:
    """Return whether this user is the only member of a group, as many systems set it up."""
    import grp  # noqa: PLC0415 - for group-writable directories only
    import pwd  # noqa: PLC0415 - as above

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    is_own = (user.pw_gid, user.pw_name) == (gid, group.gr_name)
    return is_own and not set(group.gr_mem) - {user.pw_name}


def user_directories() -> Iterator[Path]:
    """
    Yield possible private directories of this user, outside of every root, the best first.

    They do not depend on HOME or XDG_* except for the last. A directory need not exist, and
    another user may have taken the name of one in ``/tmp``: its user checks it.
    """
    user = os.geteuid()
    yield Path(f"/tmp/orchestrator-core-{user}")  # noqa: S108 - its user makes it private
    yield Path(f"/run/user/{user}/orchestrator-core")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):  # noqa: PTH117 - it may be empty
        yield Path(runtime) / "orchestrator-core"


def absolute(what: str, path: str | os.PathLike[str], *, expand_user: bool = False) -> Path:
    """
    Return a path that a caller gave, made absolute; nothing need exist there.

    *what* names the path in the error. With *expand_user*, ``~`` is the user's home directory.

    Raises:
        InvalidInput: The working directory is gone, or the home directory is unknown.
    """
    try:
        return (Path(path).expanduser() if expand_user else Path(path)).absolute()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(
            f"{what} {os.fspath(path)!r:.200} has no absolute path: {reason}",
            hint="give an absolute path, or change to a directory that exists",
        ) from error
