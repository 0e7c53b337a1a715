"""
An agent's cgroup (version 2): the kernel's own list of the processes that an agent started.

No process can leave its cgroup by a fork, by ``setsid``, or by emptying its environment.
``cgroup.kill`` kills all of them at once, concurrent forks included.
"""

from __future__ import annotations

import errno
import posix

from orchestrator_core.supervisor import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)  #: ENODEV: removed while it was open.


class Cgroup:
    """The cgroup at *path*, which may no longer exist."""

    def __init__(self, path: str) -> None:
        self.path = path

    def is_populated(self) -> bool:
        """Return whether a live process is in or below the cgroup; True if that is unknown."""
        try:
            with open(f"{self.path}/cgroup.events", "rb", buffering=0) as events:
                return b"populated 1" in (events.read(4096) or b"")
        except OSError as error:
            return error.errno not in _GONE

    def watch(self) -> int | None:
        """Return a descriptor that polls as POLLPRI when the cgroup fills or empties."""
        try:
            fd = posix.open(f"{self.path}/cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC)
            posix.read(fd, 4096)  # The kernel reports changes since the last read.
        except OSError:
            return None
        return fd

    def members(self) -> list[int]:
        """Return the pids in and below the cgroup; zombies may be among them."""
        lists = [procfs.read(f"{path}/cgroup.procs") for path in _leaves_first(self.path)]
        return [int(pid) for listed in lists for pid in listed.split()]

    def kill(self) -> bool:
        """Send SIGKILL to all members, atomically; False if the kernel refuses."""
        try:
            fd = posix.open(f"{self.path}/cgroup.kill", posix.O_WRONLY | posix.O_CLOEXEC)
            with open(fd, "wb", buffering=0) as file:
                return file.write(b"1") == 1
        except OSError:
            return False

    def remove(self) -> bool:
        """Remove the empty cgroup and those below it. True if it no longer exists."""
        for path in _leaves_first(self.path):
            try:
                posix.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


def _leaves_first(path: str) -> Iterator[str]:
    """Yield the directories below *path*, then *path*."""
    try:
        with posix.scandir(path) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        below = []
    for directory in below:
        yield from _leaves_first(directory)
    yield path
