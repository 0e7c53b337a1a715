"""
Two things Python has no one name for: the child subreaper, and a file that grows.

Linux has both, as ``prctl`` and inotify. macOS has no subreaper, and says so;
kqueue tells of the file. (Nobody could try the macOS lines here: they are few.)
"""

from __future__ import annotations

import ctypes
import os
import select
import sys

_PR_SET_CHILD_SUBREAPER = 36
_IN_MODIFY = 0x2

_libc = ctypes.CDLL(None)


def become_subreaper() -> bool:
    """
    Become the parent of every orphan below us, instead of init. False if that cannot be had.

    It makes a proof out of ``waitpid``: "no children" then means no descendants.
    """
    if sys.platform != "linux":
        return False
    flags = [ctypes.c_ulong(value) for value in (1, 0, 0, 0)]
    return bool(_libc.prctl(_PR_SET_CHILD_SUBREAPER, *flags) == 0)


if sys.platform == "linux":

    class Growth:
        """
        News of a file's growth.

        Raises:
            OSError: The system has no more watches to give.
        """

        def __init__(self, path: str, _fd: int) -> None:
            self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if self.fd < 0 or _libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_MODIFY) < 0:
                raise OSError(f"no watch for {path!r}")

        def forget(self) -> None:
            """Take the news, so that *fd* is readable again only for later ones."""
            try:
                os.read(self.fd, 65536)
            except BlockingIOError:
                pass

else:

    class Growth:
        """News of a file's growth."""

        def __init__(self, _path: str, fd: int) -> None:
            self._queue = select.kqueue()
            self.fd = self._queue.fileno()
            change = select.kevent(
                fd,
                filter=select.KQ_FILTER_VNODE,
                flags=select.KQ_EV_ADD | select.KQ_EV_CLEAR,
                fflags=select.KQ_NOTE_WRITE | select.KQ_NOTE_EXTEND,
            )
            self._queue.control([change], 0)

        def forget(self) -> None:
            """Take the news, so that *fd* is readable again only for later ones."""
            self._queue.control(None, 8, 0)
