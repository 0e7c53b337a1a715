"""
What differs between systems: the child subreaper, file change events, and the longest wait.

Linux has both, as ``prctl`` and inotify. macOS has no subreaper, and uses kqueue for file
changes. The macOS lines are untested: no machine was available.
"""

from __future__ import annotations

import posix
import select
import sys

#: The longest single wait in seconds, 23 days: poll() takes at most 2**31 - 1 milliseconds.
LONGEST_POLL_S = 2_000_000.0
_PR_SET_CHILD_SUBREAPER = 36
_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4  #: The number of its names has changed, among other things.
_IN_DELETE = 0x200


def become_subreaper() -> bool:
    """
    Become the parent of every orphan below this process, instead of init.

    ``waitpid`` is then a proof: "no children" means no descendants. False where the system
    has no subreaper.
    """
    if sys.platform != "linux":
        return False
    # The agent's start waits for this call, and ``ctypes`` takes 2 ms to import. It adds
    # nothing to this call of its C half: four small integers, and an integer back.
    import _ctypes  # noqa: PLC0415 - as above

    program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is the C library, too.
    prctl = _ctypes.dlsym(program, "prctl")
    return bool(_ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0)


if sys.platform == "linux":

    def inotify(watches: dict[str, int]) -> tuple[int, dict[int, str]]:
        """
        Watch paths, each for the events in its mask.

        Returns a descriptor, and the path of each watch number in an event.

        Raises:
            OSError: A path does not exist, or the system's limit of watches is reached.
        """
        # Not at the top: slow to import, and not needed before the agent runs.
        import ctypes  # noqa: PLC0415
        import os  # noqa: PLC0415

        libc = ctypes.CDLL(None, use_errno=True)

        def check(result: int) -> int:
            if result < 0:
                number = ctypes.get_errno()
                raise OSError(number, f"inotify: {os.strerror(number)}")
            return result

        fd = check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            numbers = {
                check(libc.inotify_add_watch(fd, os.fsencode(path), mask)): path
                for path, mask in watches.items()
            }
        except OSError:
            os.close(fd)
            raise
        return fd, numbers

    class FileGrowthWatch:
        """
        A descriptor that becomes readable when a file grows, or a name of *watched* is removed.

        A watched file polls when it is unlinked, a watched directory when an entry of it is.

        Raises:
            OSError: The system's limit of watches is reached, or a path does not exist.
        """

        def __init__(self, path: str, _fd: int, watched: tuple[str, ...]) -> None:
            removal = dict.fromkeys(watched, _IN_ATTRIB | _IN_DELETE)
            self.fd, _ = inotify({path: _IN_MODIFY, **removal})

        def drain(self) -> None:
            """Discard the events so far; later ones make *fd* readable again."""
            try:
                posix.read(self.fd, 65536)
            except BlockingIOError:
                pass

else:

    class FileGrowthWatch:
        """A descriptor readable when a file grows, or when a name of *watched* is removed."""

        def __init__(self, _path: str, fd: int, watched: tuple[str, ...]) -> None:
            self._queue = select.kqueue()
            self.fd = self._queue.fileno()
            growth = select.KQ_NOTE_WRITE | select.KQ_NOTE_EXTEND
            removal = select.KQ_NOTE_DELETE | select.KQ_NOTE_WRITE
            flags = posix.O_RDONLY | posix.O_CLOEXEC
            self._watched = [posix.open(each, flags) for each in watched]
            changes = [(fd, growth), *((each, removal) for each in self._watched)]
            self._queue.control([_vnode_event(*change) for change in changes], 0)

        def drain(self) -> None:
            """Discard the events so far; later ones make *fd* readable again."""
            self._queue.control(None, 8, 0)

    def _vnode_event(fd: int, events: int) -> select.kevent:
        flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR
        return select.kevent(fd, filter=select.KQ_FILTER_VNODE, flags=flags, fflags=events)
