"""
The identity of a process, and handles that reach exactly that process.

The kernel reuses a pid as soon as it is free. An identity therefore adds the boot and the
start time, and the namespaces in which the two are valid: containers share the boot's id.
To signal or to wait, a handle is opened first and the identity is compared afterwards: the
handle then belongs to the intended process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk, OutOfSight
from orchestrator_core.supervisor import procfs
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes.protocol import Identity, PaneState

if TYPE_CHECKING:
    from collections.abc import Iterator

TMUX_SERVER = "tmux: server"  #: Its name in ``/proc``; the name of its forks begins with this.

_HAS_PROC = sys.platform == "linux"


def identity_of(pid: int, started: int) -> Identity:
    """Return the identity of a process that the calling process sees."""
    return Identity(boot_id(), pid, started, *_namespaces(os.getpid()))


@functools.lru_cache(maxsize=4)
def _namespaces(pid: int) -> tuple[int | None, int | None]:
    """Return the calling process's namespaces; *pid* is its own, which a fork changes."""
    if _HAS_PROC and procfs.own_pid() != pid:
        raise OutOfSight(
            "/proc shows another pid namespace than that of this process",
            hint="mount a separate /proc there: unshare --mount-proc, bwrap --proc /proc",
        )
    return procfs.namespaces()


def is_visible(process: Identity) -> bool:
    """
    Return whether the calling process would see *process* if that were alive.

    A process of another boot counts as visible: it is dead everywhere.
    """
    if process.boot_id != boot_id() or process.pid_ns is None:
        return True
    own = _namespaces(os.getpid())
    return process.pid_ns == own[0] and process.time_ns in (None, own[1])


def check_visible(process: Identity) -> None:
    """
    Do nothing if the calling process sees *process*, dead or alive.

    Raises:
        OutOfSight: It is a process of another pid or time namespace.
    """
    if not is_visible(process):
        raise OutOfSight(f"process {process.pid} is in a namespace that cannot be seen from here")


def identify(pid: int) -> Identity | None:
    """
    Return the identity of the living process *pid*; None if it has ended or is a zombie.

    Raises:
        CouldNotAsk: The process exists and ``/proc`` cannot be read: no descriptors left, say.
    """
    start_time = _start_time(pid)
    return None if start_time is None else identity_of(pid, start_time)


def is_alive(process: Identity) -> bool:
    """
    Return whether *process* is alive. A zombie, or a process of another boot, is not.

    Raises:
        OutOfSight: It is a process of another namespace.
        CouldNotAsk: See :func:`identify`.
    """
    check_visible(process)
    return process.boot_id == boot_id() and _start_time(process.pid) == process.started


def age_s(process: Identity) -> float:
    """Return the seconds since the start of *process*, alive or not, which is of this boot."""
    if _HAS_PROC:
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / ticks_per_s
    return time.time() - process.started / 1_000_000


def cwd_of(process: Identity) -> Path | None:
    """Return the working directory of *process*; None if it has ended or the system hides it."""
    try:
        if _HAS_PROC:
            found = Path(f"/proc/{process.pid}/cwd").readlink()
        else:
            from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - as below

            found = Path(psutil_table.cwd_of(process.pid))
    except OSError:
        return None
    return found if is_alive(process) else None  # Alive, so the pid was not reused meanwhile.


def pane_of(process: Identity) -> PaneState | None:
    """Return the state of the pane that runs *process*; None if that has ended or is hidden."""
    if _HAS_PROC:
        stat = procfs.stat(process.pid)
        if stat is None or not is_alive(process):
            return None
        parent = procfs.stat(stat.ppid)
        is_server = parent is not None and parent.comm.startswith(TMUX_SERVER)
        server = identify(stat.ppid) if is_server else None
        return PaneState(hung_up=stat.terminal == 0, server=server)
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    terminal, parent_pid, parent_name = psutil_table.terminal_of(process.pid)
    if not is_alive(process):
        return None
    server = identify(parent_pid) if parent_name.startswith("tmux") else None
    return PaneState(hung_up=terminal is None, server=server)


def _start_time(pid: int) -> int | None:
    if _HAS_PROC:
        stat = _stat(pid) if pid > 0 else None
        return None if stat is None or stat.is_dead else stat.started
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    return psutil_table.start_time(pid)


def _stat(pid: int) -> procfs.Stat | None:
    """Return the status of *pid*. A process whose status cannot be read does not count as dead."""
    stat = procfs.stat(pid)
    if stat is not None:
        return stat
    try:
        os.kill(pid, 0)  # Needs no descriptor. A process of another user was never known.
    except (OSError, OverflowError):
        return None
    stat = procfs.stat(pid)  # The process may have started between the two calls.
    if stat is None:
        raise CouldNotAsk(
            f"process {pid} exists, but /proc has no status of it",
            hint="out of file descriptors? see: ulimit -n; or /proc is not mounted",
        )
    return stat


class Handle:
    """A handle of one process. Actions through it reach that process or none."""

    def __init__(self, identity: Identity, fd: int) -> None:
        self.identity = identity
        self.fd = fd  #: Readable when the process has ended.

    def signal(self, signum: int) -> bool:
        """Send a signal; return False if the process has ended or has another owner."""
        try:
            if sys.platform == "linux":
                signal.pidfd_send_signal(self.fd, signum)
            else:
                os.kill(self.identity.pid, signum)  # open_handle has compared the identity.
        except OSError:
            return False
        return True


@contextlib.contextmanager
def open_handle(process: Identity) -> Iterator[Handle | None]:
    """
    Hold a handle of *process* for a ``with`` block; None if the process has ended.

    Raises:
        OutOfSight: It is a process of another namespace.
        CouldNotAsk: No descriptor is left for the handle.
    """
    check_visible(process)
    with contextlib.ExitStack() as stack:
        handle = _open(process, stack)
        yield handle if handle is not None and is_alive(process) else None


if sys.platform == "linux":

    def _open(process: Identity, stack: contextlib.ExitStack) -> Handle | None:
        try:
            fd = os.pidfd_open(process.pid)
        except OverflowError:
            return None
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise CouldNotAsk(f"cannot open process {process.pid}: {error.strerror}") from error
            return None
        stack.callback(os.close, fd)
        return Handle(process, fd)

else:

    def _open(process: Identity, stack: contextlib.ExitStack) -> Handle | None:
        queue = select.kqueue()
        stack.callback(queue.close)
        exits = select.kevent(
            process.pid,
            filter=select.KQ_FILTER_PROC,
            flags=select.KQ_EV_ADD,
            fflags=select.KQ_NOTE_EXIT,
        )
        try:
            queue.control([exits], 0)
        except OSError:
            return None
        return Handle(process, queue.fileno())
