"""The processes of the fake terminal's world, behind the protocol of a deployment."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from orchestrator_core.system.deprecation import renamed_attributes
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes.exit_record import is_proof, never_started, read_exit_record
from orchestrator_core.system.processes.protocol import (
    GracePeriods,
    Identity,
    OwnershipSelector,
    PaneState,
    Survivor,
    TaggedProcess,
    TerminationResult,
    WatchResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from orchestrator_core.system.processes.protocol import FileId, Mention, OpenFile
    from orchestrator_core.testing.fake_world import FakeProcess, FakeWorld

#: The methods of the protocol by their old names.
RENAMED_METHODS = {
    "marked": "find_tagged",
    "holders": "find_open_files",
    "directory": "cwd_of",
    "covered": "owned_processes",
    "is_inside": "includes_self",
    "containment": "cgroup_path",
    "make_containment": "create_cgroup",
    "end": "terminate_all",
}
_EXTRA_S = 0.5  # Virtual time for a supervisor to report, and the minimum for a SIGKILL.


@renamed_attributes(**RENAMED_METHODS)
class FakeProcesses:
    """The :class:`~orchestrator_core.system.processes.protocol.Processes` of a fake world."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    def identify(self, pid: int) -> Identity | None:
        """Return the identity of a living process, which may be the real calling one."""
        with self._world.call("processes.identify"):
            return self._identify(pid)

    def is_alive(self, process: Identity) -> bool:
        """Return whether *process* is alive; see the protocol."""
        with self._world.call("processes.is_alive"):
            return self._identify(process.pid) == process

    def find_tagged(self, prefix: str) -> tuple[TaggedProcess, ...]:
        """Return all living processes whose cookie begins with *prefix*; see the protocol."""
        with self._world.call("processes.find_tagged"):
            return tuple(
                TaggedProcess(self._identity(process), process.name, process.cookie)
                for process in list(self._world.processes.values())
                if process.cookie is not None and process.cookie.startswith(prefix)
            )

    def signal(self, process: Identity, signum: int) -> bool:
        """Send a signal; see the protocol."""
        with self._world.call("processes.signal"):
            found = self._find(process)
            if found is not None and found is self._world.server and signum == signal.SIGUSR1:
                self._world.socket_lost = False  # tmux makes its socket anew.
            elif found is not None:
                self._world.kill(found, signum)
            return found is not None

    def find_supervisor(self, selector: OwnershipSelector) -> Identity | None:
        """Return the agent's living supervisor; see the protocol."""
        with self._world.call("processes.find_supervisor"):
            launch_path = f"{selector.run_dir}/launch"
            processes = list(self._world.processes.values())
            found = (p for p in processes if p.role and p.role.launch_path == launch_path)
            return next(map(self._identity, found), None)

    def pane_of(self, process: Identity) -> PaneState | None:
        """Return the state of the pane that runs *process*; see the protocol."""
        with self._world.call("processes.pane_of"):
            found = self._find(process)
            if found is None:
                return None
            panes = {session.pane_pid for session in self._world.sessions.values()}
            server = self._world.server if found.pid in panes else None
            return PaneState(
                hung_up=found.pid not in panes,
                server=None if server is None else self._identity(server),
            )

    def watch(
        self, process: Identity | None, *, timeout_s: float, fd: int | None = None
    ) -> WatchResult:
        """Let virtual time pass until *process* has ended or *fd* is readable; see the protocol."""
        with self._world.call("processes.watch"):
            pass

        def result() -> WatchResult:
            exited = process is not None and self._identify(process.pid) != process
            readable = fd is not None and fd in wait_readable([fd], time.monotonic())
            return WatchResult(readable=readable, exited=exited)

        self._world.wait(lambda: result() != WatchResult(), timeout_s)
        return result()

    def find_open_files(self, files: Collection[FileId]) -> tuple[OpenFile, ...]:  # noqa: ARG002 - as below
        """Return nothing: fake processes keep no file open."""
        with self._world.call("processes.find_open_files"):
            return ()

    def find_mentions(self, words: Collection[str]) -> tuple[Mention, ...]:  # noqa: ARG002 - as below
        """Return nothing: fake processes have no arguments."""
        with self._world.call("processes.find_mentions"):
            return ()

    def age_s(self, process: Identity) -> float:
        """Return how long ago *process* was started, in virtual time."""
        with self._world.call("processes.age_s"):
            return self._world.now - process.started / 100

    def cwd_of(self, process: Identity) -> Path | None:  # noqa: ARG002 - as above
        """Return None: fake processes have no working directory."""
        with self._world.call("processes.cwd_of"):
            return None

    def owned_processes(self, selector: OwnershipSelector) -> tuple[Identity, ...]:
        """Return the processes that *selector* covers now; see the protocol."""
        with self._world.call("processes.owned_processes"):
            return tuple(map(self._identity, self._covered(selector)))

    def includes_self(self, selector: OwnershipSelector) -> bool:
        """Return whether the calling thread acts as a covered process; see the protocol."""
        with self._world.call("processes.includes_self"):
            current = self._world.current_process
            is_agent = current is not None and current.role is None
            return is_agent and current in self._covered(selector)

    def cgroup_path(self, name: str) -> str | None:  # noqa: ARG002 - the protocol's
        """Return None: the fake machine has no cgroups."""
        with self._world.call("processes.cgroup_path"):
            return None

    def create_cgroup(self, directory: str) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: the fake machine has no cgroups."""
        with self._world.call("processes.create_cgroup"):
            return False

    def terminate_all(self, selector: OwnershipSelector, grace: GracePeriods) -> TerminationResult:
        """End everything that *selector* covers; see the protocol."""
        with self._world.call("processes.terminate_all"):
            pass
        if self.includes_self(selector):
            survivors = _survivors(self._covered(selector))
            return TerminationResult("scan", proven=False, survivors=survivors)
        start = self._world.now
        termination = _FakeTermination(self._world, lambda: self._covered(selector), grace)
        supervisor = self._find(selector.supervisor) if selector.supervisor is not None else None
        refused: tuple[str, ...] = ()
        if supervisor is not None and supervisor.cookie != selector.cookie:
            name = f"process {supervisor.pid} ({supervisor.name})"
            refused = (f"{name} is named as the supervisor, without its cookie",)
            supervisor = None
        earlier = [p for p in map(self._find, selector.survivors) if p is not None]
        left = {p.pid: p for p in (*termination.run(supervisor), *earlier) if p.alive}
        survivors = _survivors(list(left.values()))
        record = read_exit_record(selector.exit_file)
        contained = is_proof(selector, record)
        proven = contained or never_started(selector, self._world.boot_id)
        return TerminationResult(
            method="subreaper" if contained else "scan",
            proven=proven and not survivors,
            signalled=len(termination.signalled),
            forced=termination.forced or (record is not None and record.forced),
            survivors=survivors,
            duration_ms=(self._world.now - start) * 1000,
            refused=refused,
        )

    def _identify(self, pid: int) -> Identity | None:
        if pid == os.getpid():
            return Identity(self._world.boot_id, pid, 0)
        process = self._world.processes.get(pid)
        return self._identity(process) if process is not None else None

    def _find(self, process: Identity) -> FakeProcess | None:
        found = self._world.processes.get(process.pid)
        return found if found is not None and self._identity(found) == process else None

    def _identity(self, process: FakeProcess) -> Identity:
        return Identity(self._world.boot_id, process.pid, process.started)

    def _covered(self, selector: OwnershipSelector) -> list[FakeProcess]:
        processes = list(self._world.processes.values())
        roots = [p for p in processes if self._identity(p) in selector.extra_roots]
        roots += [p for p in processes if p.cookie == selector.cookie]
        return [
            p
            for p in processes
            if p.cookie == selector.cookie or any(p is root or p.is_below(root) for root in roots)
        ]


class _FakeTermination:
    """One termination of all processes that *find* returns, except the caller, the unwinder."""

    def __init__(
        self, world: FakeWorld, find: Callable[[], list[FakeProcess]], grace: GracePeriods
    ) -> None:
        self._world = world
        self._find = find
        self._term_until = world.now + grace.term_s
        self._until = self._term_until + grace.kill_s
        self.signalled: set[int] = set()
        self.forced = False

    def run(self, supervisor: FakeProcess | None) -> list[FakeProcess]:
        """End the supervisor, which ends its tree, then the rest; return the processes left."""
        if supervisor is not None and supervisor is not self._world.current_process:
            self._stop_supervisor(supervisor)
        self._signal_until(self._term_until, signal.SIGTERM)
        self._signal_until(self._until, signal.SIGKILL)
        return self._targets()

    def _signal_until(self, deadline: float, signum: int) -> None:
        """Signal all processes, and those they start meanwhile, until none is left."""
        while (targets := self._targets()) and self._world.now < deadline:
            self.forced = self.forced or signum == signal.SIGKILL
            self._send(signum, *targets)
            self._world.wait(lambda: not self._targets(), deadline - self._world.now)

    def _stop_supervisor(self, supervisor: FakeProcess) -> None:
        """Signal the supervisor, and wait for it; then the time for SIGTERM is over."""
        self._send(signal.SIGTERM, supervisor)
        patience_s = self._until + _EXTRA_S - self._world.now
        if not self._world.wait(lambda: not supervisor.alive, patience_s):
            self.forced = True
            self._send(signal.SIGKILL, supervisor)
        self._term_until = self._world.now
        self._until = max(self._until, self._world.now + _EXTRA_S)

    def _send(self, signum: int, *processes: FakeProcess) -> None:
        with self._world.lock:
            for process in processes:
                self.signalled.add(process.pid)
                self._world.kill(process, signum)

    def _targets(self) -> list[FakeProcess]:
        return [p for p in self._find() if p is not self._world.current_process]


def _survivors(processes: list[FakeProcess]) -> tuple[Survivor, ...]:
    return tuple(Survivor(process.pid, process.name) for process in processes)
