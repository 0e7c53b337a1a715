"""
A cgroup (version 2): the kernel's own list of what an agent started.

A process cannot leave it by forking, by ``setsid``, or by emptying its
environment, and ``cgroup.kill`` ends all of it at once, new forks included.
"""

from __future__ import annotations

import errno
import os

from orchestrator_core.supervisor import procfs

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV)  #: The last: it was removed while open.


class Cgroup:
    """The cgroup at *path*, whether it is still there or not."""

    def __init__(self, path: str) -> None:
        self.path = path

    def exists(self) -> bool:
        """Tell whether the directory is there; also if that cannot be told."""
        try:
            os.lstat(self.path)
        except OSError as error:
            return error.errno not in _GONE
        return True

    def is_populated(self) -> bool:
        """Tell whether a living process is in it, or in one below it; also if it cannot be told."""
        try:
            fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return b"populated 1" in os.read(fd, 4096)
            finally:
                os.close(fd)
        except OSError as error:
            return error.errno not in _GONE

    def watch(self) -> int | None:
        """Return a descriptor that polls as POLLPRI when the cgroup fills or empties."""
        try:
            fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 4096)  # Changes are counted from the first look.
        except OSError:
            return None
        return fd

    def members(self) -> list[int]:
        """Return the pids in it and in those below it; a zombie may be among them."""
        lists = [procfs.read(f"{path}/cgroup.procs") for path, _, _ in os.walk(self.path)]
        return [int(pid) for listed in lists for pid in listed.split()]

    def kill(self) -> bool:
        """Send SIGKILL to all of it, atomically; False if the kernel would not."""
        try:
            fd = os.open(f"{self.path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.write(fd, b"1") == 1
        except OSError:
            return False
        finally:
            os.close(fd)

    def remove(self) -> bool:
        """Remove the empty cgroup and those below it. True if it is gone, whoever removed it."""
        for path, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return not self.exists()
