"""
The supervisor's main loop, from the commit to the exec of the unwinder.

::

    RUNNING -- agent exits, SIGTERM, deadline, terminal or root gone -> TERMINATING
       |                                                              |       |
       +-- SIGUSR1 --> END_REQUESTED -- agent exits, or linger_s -----+    term_s
                                                                      |       |
    DONE <------------------ no process is left ----------------------+    KILLING
       ^                                                                      |
       +--------------------- no process is left, or kill_s ------------------+

The loop waits for the first of: a signal, a dead child, output in the log, the terminal,
the cgroup, or the end of the phase's time. In DONE the supervisor offers a sweeper the
unwinding (:mod:`.handoff`), else becomes the unwinder itself.
"""

from __future__ import annotations

import posix
import select
import time

from orchestrator_core.supervisor import gate, handoff, removed_root, run_lock, signals, spawn
from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.supervisor.exit_recorder import ENV_RECORD, ExitRecorder
from orchestrator_core.supervisor.log_tail import PaneTail
from orchestrator_core.supervisor.platform import LONGEST_POLL_S
from orchestrator_core.supervisor.process_tree import ProcessTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator_core.supervisor.launch import Launch

RUNNING = "running"  #: The agent works.
END_REQUESTED = "end-requested"  #: The agent has requested its end, and may exit by itself.
TERMINATING = "terminating"  #: All processes have had SIGTERM.
KILLING = "killing"  #: All processes get SIGKILL.
DONE = "done"

_UNWATCHED_MS = 5000  #: How often a supervisor without file events looks whether its root is there.

_BEFORE_SHUTDOWN = (RUNNING, END_REQUESTED)


def supervise(launch: Launch, journal: int) -> int:
    """
    Run the agent to its end, and contain it.

    Returns an exit status, unless the process becomes the unwinder. *journal* is a
    descriptor of the committed journal.
    """
    run_lock.hold(launch.exit_file.rpartition("/")[0])
    loop = MainLoop(launch, journal)
    try:
        loop.start_agent()
        while loop.phase != DONE:
            loop.wait()
            loop.step()
        record = loop.write_exit_record()
        if loop.root_is_removed():
            return loop.save_what_is_known()
        loop.offer_handoff()
    except BaseException:
        loop.kill_all()  # A defect here must not leave an agent without a supervisor.
        raise
    return _exec_unwinder(launch, journal, record)


class MainLoop:
    """One agent's life, as a state machine: ``phase`` is its state."""

    def __init__(self, launch: Launch, journal: int) -> None:
        self.phase = RUNNING
        self._launch = launch
        self._journal = journal
        self._deadline: float | None = None
        self._signals = signals.SignalQueue()
        self._tree = ProcessTree()
        self._run_dir = launch.exit_file.rpartition("/")[0]
        # Not the run directory itself: its FIFO is open here, so its removal is no event.
        run_dirs = self._run_dir.rpartition("/")[0]
        self._tail = PaneTail(launch.log, (launch.journal, run_dirs))
        self._recorder = ExitRecorder(launch.exit_file, launch.events, launch.secret)
        self._began = time.monotonic()

    def start_agent(self) -> None:
        """Start the agent, or record why it could not be started."""
        started = spawn.start(self._launch)
        self._tree.attach(started.pid, self._launch.cgroup if started.in_cgroup else None)
        if self._launch.deadline_s is not None:
            self._enter(RUNNING, self._launch.deadline_s)
        if started.refused is not None:
            self._recorder.spawn_failed(started.refused)
        elif started.pid is not None:
            self._recorder.started(
                started.pid, in_cgroup=started.in_cgroup, not_set=started.not_set
            )
        if started.pid is None:
            self.phase = DONE
        self._tail.open()
        if self.phase == RUNNING and self.root_is_removed():  # Before there were events of it.
            self._begin_shutdown("root-removed")

    def wait(self) -> None:
        """Wait until there is something to do."""
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        for fd, events in self._tail.poll_fds() + self._tree.poll_fds():
            poll.register(fd, events)
        left_ms = self._left_ms()
        if not self._tail.is_watching:
            left_ms = _UNWATCHED_MS if left_ms is None else min(left_ms, _UNWATCHED_MS)
        poll.poll(left_ms)

    def step(self) -> None:
        """Read all events, and act on them as the phase requires."""
        received = self._signals.drain()
        self._tail.copy_new()
        self._tree.drain_cgroup_events()
        self._reap()
        received.discard(signals.HUP)  # Any process may send one. Ask the terminal instead.
        if self._tail.hung_up():
            self._tail.detach()
            received.add(signals.HUP)
        if self.phase in _BEFORE_SHUTDOWN and self.root_is_removed():
            self._begin_shutdown("root-removed")
        if self.phase != RUNNING and self._tree.is_empty():
            self.phase = DONE
        elif self.phase in _BEFORE_SHUTDOWN:
            self._handle_signals(received)
        elif self.phase == KILLING:
            self._tree.kill()
        self._check_deadline()

    def write_exit_record(self) -> bytes:
        """Write the final exit record, the last action that concerns the agent; return it."""
        self._tail.copy_new()
        self._recorder.all_exited(
            tree_empty=self._tree.is_proven_empty(),
            forced=self._tree.forced,
            survivors=self._tree.survivors(),
        )
        return self._recorder.encoded()

    def root_is_removed(self) -> bool:
        """Return whether the root was removed, and all records of the agent with it."""
        return removed_root.is_removed(self._journal, self._run_dir)

    def save_what_is_known(self) -> int:
        """Save the agent's end outside the removed root, and remove its empty cgroup."""
        removed_root.save(self._launch, self._recorder, self._tail.log)
        if self._launch.cgroup is not None:
            Cgroup(self._launch.cgroup).remove()
        return 0

    def offer_handoff(self) -> None:
        """Offer the unwinding to a running sweeper, whose SIGTERM accepts it."""
        if gate.is_unwinding(self._journal, self._launch.journal):
            return  # The process that unwinds waits for this one to exit.
        # A sweeper knows only the record on disk.
        is_running = handoff.sweeper_is_running(self._launch.sweeper_lock)
        if not (is_running and self._recorder.is_written):
            return
        handoff.notify_sweeper(self._launch.journal)
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        self._enter(DONE, handoff.HANDOFF_TIMEOUT_S)
        while self._left_ms() and signals.TERM not in self._signals.drain():
            poll.poll(self._left_ms())

    def kill_all(self) -> None:
        """Kill all processes of the agent at once."""
        self._tree.kill()

    def _reap(self) -> None:
        was_alive = self._tree.status is None
        self._tree.reap()
        if was_alive and self._tree.status is not None:
            self._recorder.exited(self._tree.status, time.monotonic() - self._began)
            if self.phase in _BEFORE_SHUTDOWN:
                self._begin_shutdown(self._recorder.cause)

    def _handle_signals(self, received: set[int]) -> None:
        if signals.TERM in received:
            self._begin_shutdown("term")
        elif signals.HUP in received:
            self._begin_shutdown("hangup")
        elif signals.USR1 in received and self.phase == RUNNING and self._end_requested():
            self._recorder.cause = "request"
            left_s = self._left_s()
            linger_s = self._launch.linger_s
            self._enter(END_REQUESTED, linger_s if left_s is None else min(linger_s, left_s))
        elif signals.INT in received:
            self._tree.interrupt()

    def _end_requested(self) -> bool:
        return gate.end_requested(self._journal, self._launch.journal)

    def _begin_shutdown(self, cause: str) -> None:
        if self._recorder.cause == "exit":
            self._recorder.cause = cause
        if self._tree.is_empty():
            self.phase = DONE
            return
        self._enter(TERMINATING, self._launch.term_s)
        self._tree.terminate()

    def _check_deadline(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self.phase == RUNNING:
            self._begin_shutdown("deadline")
        elif self.phase == END_REQUESTED:
            self._begin_shutdown("request")
        elif self.phase == TERMINATING:
            self._enter(KILLING, self._launch.kill_s)
            self._tree.kill()
        elif self.phase == KILLING:
            self.phase = DONE

    def _enter(self, phase: str, time_s: float) -> None:
        self.phase = phase
        self._deadline = time.monotonic() + time_s

    def _left_s(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _left_ms(self) -> float | None:
        left_s = self._left_s()
        # The loop looks at the deadline on every turn.
        return None if left_s is None else min(left_s, LONGEST_POLL_S) * 1000


def _exec_unwinder(launch: Launch, journal: int, record: bytes) -> int:
    """
    Become the unwinder, unless another process has begun to unwind.

    A process that takes over sends SIGTERM. The supervisor first blocks SIGTERM, then reads
    the journal, so none is lost: the unwinder finds a later SIGTERM pending.
    """
    signals.block_sigterm()
    if not launch.unwinder_argv or gate.is_unwinding(journal, launch.journal):
        return 0
    signals.ignore_terminal_signals()
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in (0, 1, 2):
        posix.dup2(null, fd)
    env = {**launch.unwinder_env, ENV_RECORD: record.decode()}
    try:
        posix.execve(launch.unwinder_argv[0], launch.unwinder_argv, env)
    except OSError:
        return 1  # Recovery unwinds the saga.
