"""Translation of the operating system's errors into :class:`StorageError`, with a remedy."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError

if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]


def storage_error(action: str, path: StrPath, error: OSError) -> StorageError:
    """Return *error* as a StorageError, for the caller to raise ``from`` it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(f"cannot {action} {path}: {reason}", hint=_HINTS.get(error.errno or 0, ""))


class storage_errors:  # noqa: N801 - read as a clause: with storage_errors("open", path)
    """
    Raise each OSError of a ``with`` block as a StorageError, except the types in *allow*.

    Frequent calls use an except clause with :func:`storage_error` instead, which costs
    nothing as long as no error occurs.
    """

    __slots__ = ("_action", "_allow", "_path")

    def __init__(
        self, action: str, path: StrPath, *, allow: tuple[type[OSError], ...] = ()
    ) -> None:
        self._action, self._path, self._allow = action, path, allow

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, self._allow):
            raise storage_error(self._action, self._path, error) from error


_HINTS = {
    errno.ENOSPC: "free some space on that file system, then try again",
    errno.EDQUOT: "your quota there is used up; free some space, then try again",
    errno.EACCES: "give yourself the permission, or use another root",
    errno.EPERM: "give yourself the permission, or use another root",
    errno.EROFS: "the file system is read-only; use a root elsewhere",
    errno.ELOOP: "it is a symlink, which is not followed; remove it",
    errno.ENOTDIR: "a part of the path is no directory; is the root right?",
    errno.ENOENT: "its directory is gone; is the root right?",
    errno.EISDIR: "a directory has that name; move it away",
    errno.ENAMETOOLONG: "use a root with a shorter path",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.EIO: "the disk reports a failure; look at the system's log",
    errno.EFBIG: "a file-size limit is set (ulimit -f); raise it",
}
