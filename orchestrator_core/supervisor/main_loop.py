"""
A supervisor's life, from the open gate to the heir.

::

    LIVING ------ agent exits, SIGTERM, deadline, terminal gone ------> LEAVING
       |                                                                |     |
       +-- request (SIGUSR1) --> LINGERING -- exits, or linger_s -------+  term_s
                                                                        |     |
    OVER <------------------- nothing is left below us -----------------+   FORCING
       ^                                                                      |
       +-------------------- nothing is left, or kill_s ----------------------+

One loop waits for whatever comes first: a signal, a dead child, the log, the
terminal, or the phase's own deadline. When it is OVER we become the unwinder of
our own agent, unless somebody else is at it already.
"""

from __future__ import annotations

import os
import select
import time

from orchestrator_core.supervisor import gate, signals
from orchestrator_core.supervisor import handoff as relief
from orchestrator_core.supervisor import spawn as agent
from orchestrator_core.supervisor.exit_record import Witness
from orchestrator_core.supervisor.log_tail import Mirror
from orchestrator_core.supervisor.process_tree import Below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orchestrator_core.supervisor.launch import Launch

LIVING = "living"  #: The agent does its work.
LINGERING = "lingering"  #: It has asked for its end, and may leave by itself.
LEAVING = "leaving"  #: All have had SIGTERM.
FORCING = "forcing"  #: All are getting SIGKILL.
OVER = "over"

_UNDISTURBED = (LIVING, LINGERING)


def supervise(launch: Launch, journal: int) -> int:
    """Run the agent to its end, and contain it. Returns an exit status, or becomes the heir."""
    life = Life(launch, journal)
    try:
        life.begin()
        while life.phase != OVER:
            life.wait()
            life.go_on()
        life.finish()
        life.await_relief()
    except BaseException:
        life.end_all()  # A defect of ours must not leave the agent without a supervisor.
        raise
    return _inherit(launch, journal)


class Life:
    """One agent's life, as its supervisor lives it."""

    def __init__(self, launch: Launch, journal: int) -> None:
        self.phase = LIVING
        self._launch = launch
        self._journal = journal
        self._deadline: float | None = None
        self._inbox = signals.Inbox()
        self._below = Below()
        self._mirror = Mirror(launch.log)
        self._witness = Witness(launch.exit_file, launch.events)
        self._began = time.monotonic()

    def begin(self) -> None:
        """Start the agent, or say why it could not be started."""
        started = agent.start(self._launch)
        self._below.began(started.pid, self._launch.cgroup if started.in_cgroup else None)
        if self._launch.deadline_s is not None:
            self._enter(LIVING, self._launch.deadline_s)
        if started.refused is not None:
            self._witness.refused(started.refused)
        elif started.pid is not None:
            self._witness.started(started.pid, in_cgroup=started.in_cgroup)
        if started.pid is None:
            self.phase = OVER

    def wait(self) -> None:
        """Wait until there is something to do."""
        poll = select.poll()
        poll.register(self._inbox.fd, select.POLLIN)
        for fd, events in self._mirror.interests() + self._below.interests():
            poll.register(fd, events)
        poll.poll(self._left_ms())

    def go_on(self) -> None:
        """Take in what has happened, and do what the phase makes of it."""
        came = self._inbox.take()
        self._mirror.show()
        self._below.look()
        self._bury()
        if self._mirror.is_gone():
            self._mirror.forget_terminal()
            came.add(signals.HUP)
        else:
            came.discard(signals.HUP)  # Somebody's joke: our terminal is still there.
        if self.phase != LIVING and self._below.is_empty():
            self.phase = OVER
        elif self.phase in _UNDISTURBED:
            self._live_on(came)
        elif self.phase == FORCING:
            self._below.kill()
        self._mind_the_time()

    def finish(self) -> None:
        """Leave the account of the end, the last thing that is about the agent."""
        self._mirror.show()
        self._witness.over(contained=self._below.is_proven_empty(), forced=self._below.forced)

    def await_relief(self) -> None:
        """Let a resident sweeper take over, if one is awake: a SIGTERM says that it has."""
        if not relief.is_expected(self._launch.resident):
            return
        relief.call(self._launch.journal)
        poll = select.poll()
        poll.register(self._inbox.fd, select.POLLIN)
        self._enter(OVER, relief.PATIENCE_S)
        while self._left_ms() and signals.TERM not in self._inbox.take():
            poll.poll(self._left_ms())

    def end_all(self) -> None:
        """End by force whatever is there, at once."""
        self._below.kill()

    def _bury(self) -> None:
        had_ended = self._below.status is not None
        self._below.reap()
        if self._below.status is not None and not had_ended:
            self._witness.exited(self._below.status, time.monotonic() - self._began)
            if self.phase in _UNDISTURBED:
                self._leave(self._witness.cause)

    def _live_on(self, came: set[int]) -> None:
        if signals.TERM in came:
            self._leave("term")
        elif signals.HUP in came:
            self._leave("hangup")
        elif signals.USR1 in came and self.phase == LIVING and self._is_asked_to_end():
            self._witness.cause = "request"
            self._enter(LINGERING, self._launch.linger_s)
        elif signals.INT in came:
            self._below.interrupt()

    def _is_asked_to_end(self) -> bool:
        return gate.is_asked_to_end(self._journal, self._launch.journal)

    def _leave(self, cause: str) -> None:
        if self._witness.cause == "exit":
            self._witness.cause = cause
        if self._below.is_empty():
            self.phase = OVER
            return
        self._enter(LEAVING, self._launch.term_s)
        self._below.ask_to_leave()

    def _mind_the_time(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self.phase == LIVING:
            self._leave("deadline")
        elif self.phase == LINGERING:
            self._leave("request")
        elif self.phase == LEAVING:
            self._enter(FORCING, self._launch.kill_s)
            self._below.kill()
        elif self.phase == FORCING:
            self.phase = OVER

    def _enter(self, phase: str, time_s: float) -> None:
        self.phase = phase
        self._deadline = time.monotonic() + time_s

    def _left_ms(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) * 1000


def _inherit(launch: Launch, journal: int) -> int:
    """
    Become the unwinder, unless somebody is unwinding.

    A SIGTERM from who takes over meanwhile is not lost: it is held first, then
    the journal is read, and what comes after that the heir finds pending.
    """
    signals.hold_term()
    if not launch.heir or gate.is_unwinding(journal, launch.journal):
        return 0
    signals.deaf_to_the_terminal()
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    try:
        os.execve(launch.heir[0], launch.heir, launch.heir_env)  # noqa: S606 - no shell
    except OSError:
        return 1  # Recovery does it.
