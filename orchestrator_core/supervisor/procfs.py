"""
Processes as ``/proc`` shows them: the one place that knows its format.

Where there is no ``/proc`` (macOS) the supervisor sees nothing below itself but
its own children, and says so: the unwinder's scan does the rest.
"""

from __future__ import annotations

import os

_BUFFER = 65536
_PF_FORKNOEXEC = 0x40  #: Of the flags in ``/proc/PID/stat``: include/linux/sched.h.


class Stat:
    """One line of ``/proc/PID/stat``, as far as we care."""

    __slots__ = ("comm", "is_fork", "is_in_exec", "pgid", "pid", "ppid", "sid", "started", "state")

    def __init__(self, line: bytes) -> None:
        # The name stands in parentheses, and may itself hold spaces and parentheses.
        opening, closing = line.index(b"("), line.rindex(b")")
        field = line[closing + 2 :].split(None, 24)
        self.pid = int(line[:opening])
        self.comm = line[opening + 1 : closing].decode(errors="replace")
        self.state = field[0].decode()
        self.ppid, self.pgid, self.sid = int(field[1]), int(field[2]), int(field[3])
        self.is_fork = bool(int(field[6]) & _PF_FORKNOEXEC)  #: It has executed nothing yet.
        self.started = int(field[19])  #: Clock ticks since boot.
        self.is_in_exec = (
            field[20] != b"0" and field[23] == b"0"
        )  #: It has memory, but no code yet.

    @property
    def is_dead(self) -> bool:
        """Whether it only waits to be reaped."""
        return self.state in "ZX"


def stat(pid: int) -> Stat | None:
    """Return what is known about *pid*, which may be a zombie; None if there is no such process."""
    data = read(f"/proc/{pid}/stat", single_read=True)
    return Stat(data) if data else None


def environ(pid: int) -> bytes:
    """Return the environment a process was started with; empty if we may not, or it is in exec."""
    return read(f"/proc/{pid}/environ", single_read=True)


def read(path: str, *, single_read: bool = False) -> bytes:
    """
    Return a small file of ``/proc`` or of a cgroup; empty if it cannot be read.

    *single_read*: it is one of those that give all they have, or as much as is asked for.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, _BUFFER):
            parts.append(part)
            if single_read and len(part) < _BUFFER:
                break
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def pids() -> list[int]:
    """Return the pids of all processes, the newest numbers first; none without ``/proc``."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def descendants(root: int) -> list[Stat]:
    """Return all processes below *root* that are alive, parents before their children."""
    below: dict[int, list[Stat]] = {}
    for pid in pids():
        seen = stat(pid)
        if seen is not None:
            below.setdefault(seen.ppid, []).append(seen)
    found: list[Stat] = []
    parents = [root]
    while parents:
        children = below.pop(parents.pop(), [])
        found += children
        parents += [child.pid for child in children]
    return [seen for seen in found if not seen.is_dead]


def children() -> list[int]:
    """Return the pids of our own children. Fast: a fork-hopper has to be seen before it hops."""
    listed = read("/proc/thread-self/children")
    if listed:
        return [int(pid) for pid in listed.split()]
    # A kernel without CONFIG_PROC_CHILDREN; or there are none.
    me = os.getpid()
    return [seen.pid for seen in descendants(me) if seen.ppid == me]
