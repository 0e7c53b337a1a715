"""
The format of ``/proc``: processes as the kernel lists them. No other module knows it.

Without ``/proc`` (macOS) every function here returns nothing. The supervisor then knows
only the agent's process group; the unwinder's scan of all processes does the rest.

The modules of this package import ``posix`` instead of ``os``: ``python -I -S`` does not
load ``os``, and to load it takes 1 ms.
"""

from __future__ import annotations

import posix

_BUFFER = 65536
_PF_FORKNOEXEC = 0x40  #: One of the flags in ``/proc/PID/stat``: include/linux/sched.h.


class Stat:
    """The fields of ``/proc/PID/stat`` that this package uses."""

    __slots__ = (
        *("comm", "is_fork", "is_in_exec", "pgid", "pid"),
        *("ppid", "sid", "started", "state", "terminal"),
    )

    def __init__(self, line: bytes) -> None:
        # The name is in parentheses, and may itself contain spaces and parentheses.
        opening, closing = line.index(b"("), line.rindex(b")")
        field = line[closing + 2 :].split(None, 24)
        self.pid = int(line[:opening])
        self.comm = line[opening + 1 : closing].decode(errors="replace")
        self.state = field[0].decode()
        self.ppid, self.pgid, self.sid = int(field[1]), int(field[2]), int(field[3])
        self.terminal = int(field[4])  #: The device of its controlling terminal; 0 for none.
        self.is_fork = bool(int(field[6]) & _PF_FORKNOEXEC)  #: A fork that has executed nothing.
        self.started = int(field[19])  #: In clock ticks since boot.
        self.is_in_exec = field[20] != b"0" and field[23] == b"0"  #: Has memory, but no code yet.

    @property
    def is_dead(self) -> bool:
        """Whether the process is a zombie: it only waits until its parent reaps it."""
        return self.state in "ZX"


def stat(pid: int) -> Stat | None:
    """Return the state of a process, which may be a zombie; None if there is no such process."""
    data = read(f"/proc/{pid}/stat", single_read=True)
    return Stat(data) if data else None


def environ(pid: int) -> bytes:
    """Return the initial environment of a process; empty if it is not readable, or in exec."""
    return read(f"/proc/{pid}/environ", single_read=True)


def read(path: str, *, single_read: bool = False) -> bytes:
    """
    Return a small file of ``/proc`` or of a cgroup; empty if the file cannot be read.

    *single_read*: the kernel returns the whole file in one read if the buffer is large
    enough, so a short read is the last one.
    """
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := posix.read(fd, _BUFFER):
            parts.append(part)
            if single_read and len(part) < _BUFFER:
                break
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def namespaces() -> tuple[int | None, int | None]:
    """
    Return the numbers of the calling process's pid and time namespaces; None where there are none.

    A pid is valid in the first, a start time in the second. Containers of one machine share the
    id of its boot, and differ in these.
    """
    return _namespace("pid"), _namespace("time")


def own_pid() -> int | None:
    """Return the calling process's pid as ``/proc`` shows it; None if it does not show it."""
    try:
        return int(posix.readlink("/proc/self"))
    except (OSError, ValueError):
        return None


def _namespace(kind: str) -> int | None:
    try:
        return posix.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return None


def pids() -> list[int]:
    """Return the pids of all processes, the highest first; none without ``/proc``."""
    try:
        names = posix.listdir("/proc")
    except OSError:
        return []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def descendants(root: int) -> list[Stat]:
    """Return all live processes below *root*, parents before their children."""
    below: dict[int, list[Stat]] = {}
    for process in filter(None, map(stat, pids())):
        below.setdefault(process.ppid, []).append(process)
    found: list[Stat] = []
    parents = [root]
    while parents:
        children = below.pop(parents.pop(), [])
        found += children
        parents += [child.pid for child in children]
    return [process for process in found if not process.is_dead]


def children() -> list[int]:
    """Return the pids of this process's children: fast, to see a fork chain before it moves on."""
    listed = read("/proc/thread-self/children")
    if listed:
        return [int(pid) for pid in listed.split()]
    # The kernel lacks CONFIG_PROC_CHILDREN, or there are no children.
    own = posix.getpid()
    return [process.pid for process in descendants(own) if process.ppid == own]
