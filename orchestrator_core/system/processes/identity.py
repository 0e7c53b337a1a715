"""
Who a process is, and a hold on it that no other process can inherit.

A pid alone says nothing: the kernel gives it away again. An identity adds the
boot and the start time. To signal or to wait, a handle is opened first and the
identity compared afterwards: whoever is behind the handle then is the one meant.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import CouldNotAsk
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes.protocol import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HAS_PROC = sys.platform == "linux"


def identify(pid: int) -> Identity | None:
    """
    Return the identity of the living process *pid*; None if there is none, or a zombie.

    Raises:
        CouldNotAsk: There is one, and ``/proc`` does not tell: out of descriptors, say.
    """
    started = _start_time(pid)
    return None if started is None else Identity(boot_id(), pid, started)


def is_alive(identity: Identity) -> bool:
    """
    Tell whether *identity* is alive. A zombie is not; nor is anyone of another boot.

    Raises:
        CouldNotAsk: As :func:`identify`.
    """
    if identity.boot_id != boot_id() or identity in _dead_cache:
        return False
    if _start_time(identity.pid) == identity.started:
        return True
    if len(_dead_cache) >= _DEAD_CACHE_SIZE:
        _dead_cache.clear()
    _dead_cache[identity] = time.monotonic()
    return False


_dead_cache: dict[Identity, float] = {}  #: Since when, at the latest. The dead do not come back.
_DEAD_CACHE_SIZE = 4096


def dead_since(identity: Identity) -> float | None:
    """Return since when *identity* is known to be dead, by ``time.monotonic``, or None."""
    return None if is_alive(identity) else _dead_cache.get(identity)


def age_s(identity: Identity) -> float:
    """Return how long ago *identity* was started, whether it is alive or not, in this boot."""
    if _HAS_PROC:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - identity.started / os.sysconf("SC_CLK_TCK")
    return time.time() - identity.started / 1_000_000


def cwd_of(identity: Identity) -> Path | None:
    """Return the directory in which *identity* works; None if it has ended, or does not tell."""
    try:
        if _HAS_PROC:
            found = Path(f"/proc/{identity.pid}/cwd").readlink()
        else:
            from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - as below

            found = Path(psutil_table.cwd_of(identity.pid))
    except OSError:
        return None
    return found if is_alive(identity) else None  # And so it was his, not another's of that number.


def _start_time(pid: int) -> int | None:
    if _HAS_PROC:
        seen = _stat(pid) if pid > 0 else None
        return None if seen is None or seen.is_dead else seen.started
    from orchestrator_core.system.processes import psutil_table  # noqa: PLC0415 - only without /proc

    return psutil_table.start_time(pid)


def _stat(pid: int) -> proc.Stat | None:
    """Look up *pid*; a process that is there and cannot be looked at is not taken for dead."""
    seen = proc.stat(pid)
    if seen is not None:
        return seen
    try:
        os.kill(pid, 0)  # Needs no descriptor. Another user's process is none that we knew.
    except (OSError, OverflowError):
        return None
    seen = proc.stat(pid)  # Perhaps it has only just come.
    if seen is None:
        raise CouldNotAsk(
            f"process {pid} is there, and /proc does not tell of it",
            hint="out of file descriptors? see: ulimit -n; or /proc is not mounted",
        )
    return seen


class Handle:
    """A hold on one living process: what is done through it reaches that one or nobody."""

    def __init__(self, identity: Identity, fd: int) -> None:
        self.identity = identity
        self.fd = fd  #: Readable when the process has ended.

    def signal(self, signum: int) -> bool:
        """Send a signal; False if the process has ended, or is not ours to signal."""
        try:
            if sys.platform == "linux":
                signal.pidfd_send_signal(self.fd, signum)
            else:
                os.kill(self.identity.pid, signum)  # The identity was compared a moment ago.
        except OSError:
            return False
        return True


@contextlib.contextmanager
def open_handle(identity: Identity) -> Iterator[Handle | None]:
    """
    Hold *identity* for the length of a ``with``; None if it has ended.

    Raises:
        CouldNotAsk: There is no descriptor to be had for it.
    """
    with contextlib.ExitStack() as stack:
        handle = _open(identity, stack)
        yield handle if handle is not None and is_alive(identity) else None


if sys.platform == "linux":

    def _open(identity: Identity, stack: contextlib.ExitStack) -> Handle | None:
        try:
            fd = os.pidfd_open(identity.pid)
        except OverflowError:
            return None
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise CouldNotAsk(
                    f"cannot hold process {identity.pid}: {error.strerror}"
                ) from error
            return None
        stack.callback(os.close, fd)
        return Handle(identity, fd)

else:

    def _open(identity: Identity, stack: contextlib.ExitStack) -> Handle | None:
        queue = select.kqueue()
        stack.callback(queue.close)
        exits = select.kevent(
            identity.pid,
            filter=select.KQ_FILTER_PROC,
            flags=select.KQ_EV_ADD,
            fflags=select.KQ_NOTE_EXIT,
        )
        try:
            queue.control([exits], 0)
        except OSError:
            return None
        return Handle(identity, queue.fileno())


def wait_readable(fds: Sequence[int], deadline: float, *, events: int = select.POLLIN) -> list[int]:
    """Wait until one of *fds* has news, by the monotonic clock until *deadline*; return those."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    return [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
