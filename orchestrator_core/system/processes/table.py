"""
The table of all processes of the machine, read in one scan.

Two readers return the same rows: one reads ``/proc``, the other asks psutil where there is
no ``/proc``. On Linux the tests compare the two.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs
from orchestrator_core.system.processes.identity import TMUX_SERVER, identity_of
from orchestrator_core.system.shared_scan import SharedScan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator_core.system.processes.protocol import Identity

COOKIE_NAME = "ORCHESTRATOR_COOKIE"
UNWINDER_NAME = (
    "ORCHESTRATOR_UNWINDER_OF"  #: The cookie of an unwinder, which is no agent's process.
)
_EXEC_TIMEOUT_S = 0.2  #: For the end of an exec, which takes about a millisecond.


@attrs.frozen
class Row:
    """One living process."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    started: int
    comm: str
    cookie: str | None  #: From its environment; None if it has none or the system hides it.
    is_fork: bool = False  #: It has executed nothing since its fork; False where unknown.

    @property
    def identity(self) -> Identity:
        """The identity of the process."""
        return identity_of(self.pid, self.started)

    @property
    def is_tmux_server(self) -> bool:
        """Whether it is a tmux server, or a fork of one: see :meth:`is_fork_of`."""
        return self.comm.startswith(TMUX_SERVER)

    def is_fork_of(self, parent: Row) -> bool:
        """
        Return whether this is a fork of a tmux server that has not executed a program yet.

        Such a process must not be signalled. Until utempter's child executes (two for each
        pane, to keep utmp), it shares with its server the pipe by which libevent passes on
        signals. Observed: SIGTERM for such a child ended the server.
        """
        return self.is_fork and self.is_tmux_server and parent.is_tmux_server


def snapshot() -> Sequence[Row]:
    """
    Return all living processes, highest pid first, by a scan that began after this call.

    A zombie is not alive. Threads that call at the same time share a scan.

    Raises:
        CouldNotAsk: The table cannot be read.
    """
    return _shared_scan.get()


def _scan() -> Sequence[Row]:
    found = tuple(proc_rows() if sys.platform == "linux" else psutil_rows())
    if os.getpid() not in {row.pid for row in found}:
        raise CouldNotAsk(
            "the table of processes cannot be read: it does not even list this process",
            hint="out of file descriptors? see: ulimit -n; or /proc is not mounted",
        )
    return found


_shared_scan = SharedScan(_scan)


def get(pid: int) -> Row | None:
    """Return the living process *pid*, or None."""
    if sys.platform == "linux":
        stat = procfs.stat(pid)
        return None if stat is None or stat.is_dead else _row(stat, procfs.environ(pid))
    return next((found for found in psutil_rows() if found.pid == pid), None)


def bears_cookie(process: Identity, cookie: str) -> bool:
    """
    Return whether a living process bears an agent's cookie, as its own or as its unwinder.

    False also if the system hides the environment of the process: a receipt that names the
    process is then no proof.
    """
    if sys.platform != "linux":
        from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - see psutil_rows

        names = (COOKIE_NAME, UNWINDER_NAME)
        borne = [psutil_table.variable(process.pid, name) for name in names]
        return cookie in borne and psutil_table.start_time(process.pid) == process.started
    stat = procfs.stat(process.pid)
    if stat is not None and not procfs.environ(process.pid):
        stat = _wait_for_exec(stat)
    environ = procfs.environ(process.pid)
    borne = [_variable(environ, name) for name in (COOKIE_NAME, UNWINDER_NAME)]
    return cookie in borne and stat is not None and stat.started == process.started


def variable(pid: int, name: str) -> str | None:
    """Return a variable of a process's initial environment; None without it or ``/proc``."""
    return _variable(procfs.environ(pid), name) if sys.platform == "linux" else None


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty if it has ended, or the system hides them."""
    if sys.platform == "linux":
        return os.fsdecode(procfs.read(f"/proc/{pid}/cmdline")).split("\0")[:-1]
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    return psutil_table.command_line(pid)


def proc_rows() -> Iterator[Row]:
    """Return the rows of ``/proc``."""
    mid_exec = []
    for pid in procfs.pids():
        stat = procfs.stat(pid)
        if stat is None or stat.is_dead:
            continue
        environ = procfs.environ(pid)
        if environ and not _is_fork(stat):
            yield _row(stat, environ)
        else:
            mid_exec.append(stat)
    for before in mid_exec:
        after = _wait_for_exec(before)
        if after is not None and not after.is_dead:
            yield _row(after, procfs.environ(after.pid))


def _wait_for_exec(stat: procfs.Stat) -> procfs.Stat | None:
    """Read the status again until the process has executed its program, or 0.2 s have passed."""
    deadline = time.monotonic() + _EXEC_TIMEOUT_S
    now: procfs.Stat | None = stat
    while now is not None and (now.is_in_exec or _is_fork(now)) and time.monotonic() < deadline:
        os.sched_yield()  # No event reports the end of an exec.
        now = procfs.stat(stat.pid)
    return now


def _is_fork(stat: procfs.Stat) -> bool:
    if not (stat.is_fork and stat.comm.startswith(TMUX_SERVER)):
        return False
    parent = procfs.stat(stat.ppid)
    return parent is not None and _row(stat, b"").is_fork_of(_row(parent, b""))


def _row(stat: procfs.Stat, environ: bytes) -> Row:
    """
    Return the row of two readings, the status first.

    If the pid changes hands between them, the row has the identity of the dead process.
    """
    fields = (stat.pid, stat.ppid, stat.pgid, stat.sid, stat.started, stat.comm)
    return Row(*fields, _parse_cookie(environ), stat.is_fork)


def _parse_cookie(environ: bytes) -> str | None:
    return _variable(environ, COOKIE_NAME)


def _variable(environ: bytes, name: str) -> str | None:
    _, found, rest = (b"\0" + environ).partition(f"\0{name}=".encode())
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def psutil_rows() -> Iterator[Row]:
    """Return the rows of psutil."""
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    return (Row(*fields) for fields in psutil_table.rows(COOKIE_NAME))
