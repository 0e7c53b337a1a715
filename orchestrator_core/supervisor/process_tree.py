"""
Everything below us: what the agent started, however it hid.

As a child subreaper we are the parent of every orphan below, so ``waitpid``
is a proof: when it says that we have no children, no descendant is alive. And
it is a method: whatever is killed hands its children up to us, so that killing
our own children, again and again, ends any tree, faster than it can fork.
"""

from __future__ import annotations

import os
import select

from orchestrator_core.supervisor import platform, procfs, signals
from orchestrator_core.supervisor.cgroup import Cgroup


class ProcessTree:
    """
    The agent's main process and all its descendants.

    Attributes:
        main: The agent's pid, for as long as it is ours to signal; None before and after.
        status: The wait status of the agent, when it has one.
        forced: Whether SIGKILL was needed.
    """

    def __init__(self) -> None:
        self._is_subreaper = platform.become_subreaper()
        self._cgroup: Cgroup | None = None
        self._cgroup_fd: int | None = None
        self._has_children = True
        self._killed: set[int] = set()
        self.main: int | None = None
        self.status: int | None = None
        self.forced = False

    def attach(self, main: int | None, cgroup: str | None) -> None:
        """Take charge of *main*, if there is one, and of the cgroup it is in."""
        self.main = main
        self._has_children = main is not None
        if cgroup is not None:
            self._cgroup = Cgroup(cgroup)
            self._cgroup_fd = self._cgroup.watch()

    def reap(self) -> None:
        """Bury the dead, and learn whether any are left. Never waits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                return
            if pid == 0:
                return
            self._killed.discard(pid)
            if pid == self.main:
                self.main, self.status = None, status

    def is_empty(self) -> bool:
        """Tell whether nothing is left of which we know."""
        return not self._has_children and not (self._cgroup and self._cgroup.is_populated())

    def is_proven_empty(self) -> bool:
        """Tell whether nothing is left at all."""
        return self._is_subreaper and self.is_empty()

    def poll_fds(self) -> list[tuple[int, int]]:
        """Return what to poll for, while the end is awaited."""
        return [] if self._cgroup_fd is None else [(self._cgroup_fd, select.POLLPRI)]

    def drain_cgroup_events(self) -> None:
        """Take the cgroup's news, so that it polls for the next."""
        if self._cgroup_fd is not None:
            try:
                os.pread(self._cgroup_fd, 4096, 0)
            except OSError:
                self._cgroup_fd = None  # It has been removed: it was empty.

    def terminate(self) -> None:
        """Send SIGTERM to everything, the stopped included."""
        for seen in self._all():
            _signal_verified(seen, signals.TERM)
            _signal_verified(seen, signals.CONT)
        self._signal_group_without_proc(signals.TERM)

    def kill(self) -> None:
        """
        Send SIGKILL to everything that has not had it.

        One round; the next is due when one of those it struck has died.
        """
        self.forced = True
        if self._cgroup is not None:
            self._cgroup.kill()
        # Our own children first and fast: they keep their pids until we reap
        # them, and each that dies hands us its own.
        while fresh := set(procfs.children()) - self._killed:
            for pid in fresh:
                signals.send_to_child(pid, signals.KILL)
            self._killed |= fresh
        for seen in self._all():
            _signal_verified(seen, signals.KILL)
        self._signal_group_without_proc(signals.KILL)

    def interrupt(self) -> None:
        """Pass a Ctrl-C on to the agent's process group."""
        if self.main is not None:
            signals.send_to_child(-self.main, signals.INT)

    def _signal_group_without_proc(self, number: int) -> None:
        """Signal what can be known where nothing else is: macOS. The heir's scan does the rest."""
        if not self._is_subreaper and self.main is not None:
            signals.send_to_child(-self.main, number)

    def _all(self) -> list[procfs.Stat]:
        found = {seen.pid: seen for seen in procfs.descendants(os.getpid())}
        for pid in self._cgroup.members() if self._cgroup else ():
            seen = procfs.stat(pid)
            if seen is not None and pid not in found:
                found[pid] = seen
        return list(found.values())


def _signal_verified(seen: procfs.Stat, number: int) -> None:
    """Signal the process that was seen, and nobody who has been given its pid since."""
    try:
        pidfd = os.pidfd_open(seen.pid)
    except OSError:
        return
    try:
        now = procfs.stat(seen.pid)
        if now is not None and now.started == seen.started:
            signals.send(pidfd, number)
    finally:
        os.close(pidfd)
