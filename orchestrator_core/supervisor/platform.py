"""
Two things Python has no one name for: the child subreaper, and files that change.

Linux has both, as ``prctl`` and inotify. macOS has no subreaper, and says so;
kqueue tells of a file. (Nobody could try the macOS lines here: they are few.)
"""

from __future__ import annotations

import ctypes
import os
import select
import sys

_PR_SET_CHILD_SUBREAPER = 36
_IN_MODIFY = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


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

    def inotify(watches: dict[str, int]) -> tuple[int, dict[int, str]]:
        """
        Watch paths, each for the events of its mask.

        Returns a descriptor, and which path is meant by the number in an event.

        Raises:
            OSError: A path is not there, or the system has no more watches to give.
        """
        fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            numbers = {
                _check(_libc.inotify_add_watch(fd, os.fsencode(path), mask)): path
                for path, mask in watches.items()
            }
        except OSError:
            os.close(fd)
            raise
        return fd, numbers

    def _check(answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"inotify: {os.strerror(number)}")
        return answer

    class FileGrowthWatch:
        """
        News of a file's growth.

        Raises:
            OSError: The system has no more watches to give.
        """

        def __init__(self, path: str, _fd: int) -> None:
            self.fd, _ = inotify({path: _IN_MODIFY})

        def drain(self) -> None:
            """Take the news, so that *fd* is readable again only for later ones."""
            try:
                os.read(self.fd, 65536)
            except BlockingIOError:
                pass

else:

    class FileGrowthWatch:
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

        def drain(self) -> None:
            """Take the news, so that *fd* is readable again only for later ones."""
            self._queue.control(None, 8, 0)
