"""
All processes of the machine, in one pass.

Two tables with the same rows: ``/proc``, read here, and psutil where there is
no ``/proc``. On Linux the tests hold one against the other.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import attrs

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes.protocol import Identity
from orchestrator_core.system.shared_scan import SharedScan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COOKIE_NAME = "ORCHESTRATOR_COOKIE"
_EXEC_S = 0.2  #: Far longer than an exec takes, even where there is much else to do.
_TMUX_SERVER = "tmux: server"


@attrs.frozen
class Row:
    """One living process."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    started: int
    comm: str
    cookie: str | None  #: Of its environment; None if it has none, or we may not look.
    is_fork: bool = False  #: It has executed nothing since; False where that is not told.

    @property
    def identity(self) -> Identity:
        """Who it is."""
        return Identity(boot_id(), self.pid, self.started)

    @property
    def is_tmux_server(self) -> bool:
        """Whether it is one, or the fork of one: see :meth:`is_fork_of`."""
        return self.comm.startswith(_TMUX_SERVER)

    def is_fork_of(self, parent: Row) -> bool:
        """
        Tell whether a tmux server has forked this one, which has not executed anything yet.

        Nobody can tell what it will be; and a signal for it is the server's: they share the
        pipe by which libevent tells of signals, until utempter's child (two for each pane, to
        keep utmp) executes. Observed: SIGTERM for such a child ended the server.
        """
        return self.is_fork and self.is_tmux_server and parent.is_tmux_server


def snapshot(*, since: float | None = None) -> Sequence[Row]:
    """
    Return all living processes, the newest numbers first. A zombie is not one.

    Each was seen after the call began, or after *since*, by ``time.monotonic``. Threads
    that ask while a pass is under way share the next one: many ends at once do not look
    through /proc once each.
    """
    return _shared_scan.get(since=time.monotonic() if since is None else since)


def _scan() -> Sequence[Row]:
    found = tuple(proc_rows() if sys.platform == "linux" else psutil_rows())
    if os.getpid() not in {row.pid for row in found}:
        raise CouldNotAsk(
            "the look at all processes did not even show ourselves",
            hint="out of file descriptors? see: ulimit -n; or /proc is not mounted",
        )
    return found


_shared_scan = SharedScan(_scan)


def get(pid: int) -> Row | None:
    """Return the living process *pid*, or None."""
    if sys.platform == "linux":
        seen = proc.stat(pid)
        if seen is None or seen.is_dead:
            return None
        return _row(seen, proc.environ(pid))
    return next((found for found in psutil_rows() if found.pid == pid), None)


def proc_rows() -> Iterator[Row]:
    """Go through ``/proc``."""
    mid_exec = []
    for pid in proc.pids():
        seen = proc.stat(pid)
        if seen is None or seen.is_dead:
            continue
        environ = proc.environ(pid)
        if environ and not _is_fork(seen):
            yield _row(seen, environ)
        else:
            mid_exec.append(seen)
    for seen in mid_exec:
        now = _wait_for_exec(seen)
        if now is not None and not now.is_dead:
            yield _row(now, proc.environ(now.pid))


def _wait_for_exec(seen: proc.Stat) -> proc.Stat | None:
    """Look again while *seen* is about to execute something, or does: it is nobody yet."""
    until = time.monotonic() + _EXEC_S
    now: proc.Stat | None = seen
    while now is not None and (now.is_in_exec or _is_fork(now)) and time.monotonic() < until:
        os.sched_yield()  # There is no event to wait for; it takes a millisecond.
        now = proc.stat(seen.pid)
    return now


def _is_fork(seen: proc.Stat) -> bool:
    if not (seen.is_fork and seen.comm.startswith(_TMUX_SERVER)):
        return False
    parent = proc.stat(seen.ppid)
    return parent is not None and _row(seen, b"").is_fork_of(_row(parent, b""))


def _row(seen: proc.Stat, environ: bytes) -> Row:
    """
    Make a row of two readings, which must come in this order.

    Should the pid change hands between them, the identity is that of the dead one.
    """
    who = (seen.pid, seen.ppid, seen.pgid, seen.sid, seen.started, seen.comm)
    return Row(*who, _cookie_in(environ), seen.is_fork)


def _cookie_in(environ: bytes) -> str | None:
    mark = f"\0{COOKIE_NAME}=".encode()
    _, found, rest = (b"\0" + environ).partition(mark)
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def psutil_rows() -> Iterator[Row]:
    """Go through what psutil shows."""
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    return (Row(*fields) for fields in psutil_table.rows(COOKIE_NAME))
