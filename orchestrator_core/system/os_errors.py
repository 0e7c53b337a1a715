"""Translation of the operating system's errors into :class:`StorageError`, with a remedy."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def storage_errors(
    action: str, path: StrPath, *, allow: tuple[type[OSError], ...] = (), hint: str = ""
) -> Iterator[None]:
    """
    Raise each OSError of a ``with`` block as a StorageError, except the types in *allow*.

    Without *hint*, the error's number decides the remedy.
    """
    try:
        yield
    except allow:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = hint or _HINTS.get(error.errno or 0, "")
        raise StorageError(f"cannot {action} {path}: {reason}", hint=hint) from error


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
