"""
The process tree below the supervisor: all that the agent started.

As a child subreaper, the supervisor becomes the parent of every orphan below it. So
``waitpid`` is a proof: when it reports no children, no descendant is alive. It is also the
way to kill: the children of every killed process move up to the supervisor, so repeated
SIGKILL to its own children ends any tree, faster than the tree can fork.
"""

from __future__ import annotations

import posix
import select

from orchestrator_core.supervisor import procfs, signals
from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.supervisor.platform import become_subreaper


class ProcessTree:
    """
    The agent's main process and all its descendants.

    Attributes:
        main: The agent's pid while it is unreaped; None before and after.
        status: The wait status of the agent, after its exit.
        forced: Whether SIGKILL was needed.
    """

    def __init__(self) -> None:
        self._is_subreaper = become_subreaper()
        self._cgroup: Cgroup | None = None
        self._cgroup_fd: int | None = None
        self._has_children = True
        self._killed: set[int] = set()
        self.main: int | None = None
        self.status: int | None = None
        self.forced = False

    def attach(self, main: int | None, cgroup: str | None) -> None:
        """Add the agent's process, if it was started, and its cgroup."""
        self.main = main
        self._has_children = main is not None
        if cgroup is not None:
            self._cgroup = Cgroup(cgroup)
            self._cgroup_fd = self._cgroup.watch()

    def reap(self) -> None:
        """Reap all exited children, and note whether any are left. Never blocks."""
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                return
            if pid == 0:
                return
            self._killed.discard(pid)
            if pid == self.main:
                self.main, self.status = None, status

    def is_empty(self) -> bool:
        """Return whether no known process is left."""
        return not self._has_children and not (self._cgroup and self._cgroup.is_populated())

    def is_proven_empty(self) -> bool:
        """Return whether it is proved that no process is left."""
        return self._is_subreaper and self.is_empty()

    def survivors(self) -> list[tuple[int, int]]:
        """Return the pids and start times of the processes that are left."""
        if self.is_empty():
            return []
        return [(process.pid, process.started) for process in self._all() if not process.is_dead]

    def poll_fds(self) -> list[tuple[int, int]]:
        """Return the descriptors and events to poll for."""
        return [] if self._cgroup_fd is None else [(self._cgroup_fd, select.POLLPRI)]

    def drain_cgroup_events(self) -> None:
        """Read the cgroup's state, so that only a later change polls again."""
        if self._cgroup_fd is not None:
            try:
                posix.pread(self._cgroup_fd, 4096, 0)
            except OSError:
                self._cgroup_fd = None  # The cgroup was removed, so it was empty.

    def terminate(self) -> None:
        """Send SIGTERM to all processes, and SIGCONT to let the stopped ones receive it."""
        for process in self._all():
            _signal_verified(process, signals.TERM)
            _signal_verified(process, signals.CONT)
        self._signal_group_without_proc(signals.TERM)

    def kill(self) -> None:
        """
        Send SIGKILL to all processes that have not had it.

        This is one round. The next is due when one of the killed processes has exited.
        """
        self.forced = True
        if self._cgroup is not None:
            self._cgroup.kill()
        # The supervisor's own children first, without a check of their identity: they keep
        # their pids until it reaps them. Each hands up its own children when it dies.
        while fresh := set(procfs.children()) - self._killed:
            for pid in fresh:
                signals.send_to_child(pid, signals.KILL)
            self._killed |= fresh
        for process in self._all():
            _signal_verified(process, signals.KILL)
        self._signal_group_without_proc(signals.KILL)

    def interrupt(self) -> None:
        """Pass a Ctrl-C on to the agent's process group."""
        if self.main is not None:
            signals.send_to_child(-self.main, signals.INT)

    def _signal_group_without_proc(self, number: int) -> None:
        """Signal the agent's group on macOS, where ``/proc`` lists nothing."""
        if not self._is_subreaper and self.main is not None:
            signals.send_to_child(-self.main, number)

    def _all(self) -> list[procfs.Stat]:
        found = {process.pid: process for process in procfs.descendants(posix.getpid())}
        for pid in self._cgroup.members() if self._cgroup else ():
            process = procfs.stat(pid)
            if process is not None:
                found.setdefault(pid, process)
        return list(found.values())


def _signal_verified(process: procfs.Stat, number: int) -> None:
    """Signal a process, unless another one has its pid by now."""
    try:
        pidfd = posix.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = procfs.stat(process.pid)
        if now is not None and now.started == process.started:
            signals.send(pidfd, number)
    finally:
        posix.close(pidfd)
