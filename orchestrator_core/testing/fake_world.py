"""
The fake world: processes, sessions, a virtual clock, and a schedule of events.

The world changes only when it is called. Each call first runs :meth:`FakeWorld.advance`: the
events that are due happen, and each process that waits at a gate or for a lock tries again.
:meth:`FakeWorld.wait` moves the clock to the next event.

All threads share the clock. It moves when every thread that uses the world waits: a thread that
is in the middle of a deployment takes no virtual time. Whether the others wait is known of those
that wait in this world. A thread that waits elsewhere is recognized by its rest for some real
milliseconds, which only programs with several threads spend.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import signal
import threading
import weakref
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from orchestrator_core.system.terminal import Session
    from orchestrator_core.testing.fake_supervisor import Supervisor

# Above the largest pid on Linux: a real kill() finds no process.
_FIRST_PID = 5_000_001
_HARMLESS = (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCHLD, signal.SIGWINCH)
_REST_S = 0.02  #: Real seconds without a call, after which a thread counts as waiting.
_POLITE = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@attrs.define(eq=False)
class FakeProcess:
    """A process of the fake world."""

    pid: int
    started: int
    name: str
    cookie: str | None = None  #: The value of ORCHESTRATOR_COOKIE in its environment.
    parent: FakeProcess | None = None  #: None means init.
    ignores_term: bool = False
    unkillable: bool = False
    alive: bool = True
    code: int | None = None  #: Its exit code, if it has exited.
    died_of: int | None = None  #: The signal that ended it, if one did.
    role: Supervisor | None = attrs.field(
        default=None, repr=False
    )  #: The behaviour of a supervisor.

    def is_below(self, ancestor: FakeProcess) -> bool:
        """Return whether this process descends from *ancestor*."""
        parent = self.parent
        return parent is not None and (parent is ancestor or parent.is_below(ancestor))


@attrs.define(eq=False)
class Failure:
    """Calls of the world that raise."""

    call: str
    error: BaseException | type[BaseException]
    times: float
    after: bool  #: They raise after their change.


class FakeWorld:
    """All processes, sessions and events, under one lock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.boot_id = "fake-boot-1"
        self.server: FakeProcess | None = None
        self.hung = False
        self.socket_lost = False  #: The server lives, and no call reaches it.
        self.refusal = ""
        self.sessions: dict[str, Session] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.lock = threading.RLock()
        self._schedule: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._pids = itertools.count(_FIRST_PID)
        self.failures: list[Failure] = []
        #: Surrounds each call by its name.
        self.observe: Callable[[str], AbstractContextManager[object]] = contextlib.nullcontext
        self._local = threading.local()
        self._moved = threading.Condition(self.lock)
        self._waiting: dict[threading.Thread, float] = {}  #: Until when, at most.
        self._calls = 0  #: A thread that rests adds none.
        self._callers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._older = weakref.WeakSet(threading.enumerate())  #: Threads of before this world.

    # --- processes -------------------------------------------------------------------

    def spawn(self, name: str, **traits: object) -> FakeProcess:
        """Start a process."""
        pid = next(self._pids)
        process = FakeProcess(pid, int(self.now * 100), name, **traits)  # type: ignore[arg-type]
        self.processes[pid] = process
        return process

    def kill(self, process: FakeProcess, signum: int) -> None:
        """Send a signal to a living process."""
        if not process.alive or process.unkillable:
            return
        if signum == signal.SIGKILL:
            self.mark_dead(process, died_of=signum)
        elif process.role is not None:
            process.role.receive(signum)
        elif signum not in _HARMLESS and not (signum in _POLITE and process.ignores_term):
            self.mark_dead(process, died_of=signum)

    def mark_dead(
        self, process: FakeProcess, *, code: int | None = None, died_of: int | None = None
    ) -> None:
        """End a process: its children become init's, and its session is removed."""
        if not process.alive:
            return
        process.alive = False
        process.code, process.died_of = code, died_of
        del self.processes[process.pid]
        for child in self.processes.values():
            if child.parent is process:
                child.parent = None
        remaining = [s for s in self.sessions.values() if s.pane_pid != process.pid]
        self.sessions = {session.name: session for session in remaining}
        if process.role is not None:
            process.role.ended()

    def drop_session(self, name: str) -> None:
        """Remove a session; its process gets a SIGHUP."""
        session = self.sessions.pop(name)
        self.kill(self.processes[session.pane_pid], signal.SIGHUP)

    def restart(self) -> None:
        """Reboot the machine: all processes and sessions are gone, without a signal."""
        with self.lock:
            for process in list(self.processes.values()):
                self.mark_dead(process)
            self._schedule.clear()
            self.server = None
            self.socket_lost = False
            self.boot_id = f"fake-boot-{next(self._pids)}"

    @property
    def current_process(self) -> FakeProcess | None:
        """The fake process that the calling thread acts as; None for the orchestrator."""
        return getattr(self._local, "process", None)

    def is_world_call(self) -> bool:
        """Return whether the calling thread acts for the world, or for a supervisor."""
        me = self.current_process
        owns: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]  # noqa: SLF001 - as threading.Condition does
        return owns() or (me is not None and me.role is not None)

    @contextlib.contextmanager
    def as_process(self, process: FakeProcess | None) -> Iterator[None]:
        """Let the calling thread act as *process*."""
        before, self._local.process = self.current_process, process
        try:
            yield
        finally:
            self._local.process = before

    # --- time ----------------------------------------------------------------------

    def schedule(self, delay_s: float, action: Callable[[], None]) -> None:
        """Schedule *action* for *delay_s* from now."""
        heapq.heappush(self._schedule, (self.now + delay_s, next(self._order), action))

    def advance(self) -> None:
        """Run everything that can happen now."""
        while True:
            with self.lock:
                moved = False
                while self._schedule and self._schedule[0][0] <= self.now:
                    heapq.heappop(self._schedule)[2]()
                    moved = True
                roles = [p.role for p in list(self.processes.values()) if p.role is not None]
                stepped = [role.step() for role in roles]
                calls = [call for role in roles if (call := role.deferred_call()) is not None]
            # A call takes its own locks; their holders may be waiting for the world's lock.
            for call in calls:
                call()
            if not (moved or any(stepped) or calls):
                return

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """
        Let time pass until *until* holds, at most *timeout_s*; return whether it does.

        Raises:
            RuntimeError: The wait has no end: there is no other thread, and nothing to come.
        """
        deadline = self.now + timeout_s
        while True:
            self.advance()
            if until():
                return True
            if self.now >= deadline:
                return False
            self._let_time_pass(deadline)

    def _let_time_pass(self, deadline: float) -> None:
        """Move the clock to the next event or deadline, if all threads wait for one."""
        me = threading.current_thread()
        with self._moved:
            self._waiting[me] = deadline
            try:
                others = self._others(me)
                if others and not self._rest(others):
                    return
                due = min([*self._waiting.values(), *[event[0] for event in self._schedule[:1]]])
                if due < math.inf:
                    self.now = max(self.now, due)
                    self._note_call()
                elif not others:
                    raise RuntimeError("nothing in the fake world will ever end this wait")
            finally:
                del self._waiting[me]

    def _others(self, me: threading.Thread) -> list[threading.Thread]:
        """Return the other threads that may use this world and do not wait in it."""
        is_only_older = me in self._older  # Only a newer thread's creator may be older.
        return [
            thread
            for thread in threading.enumerate()
            if thread is not me
            and thread not in self._waiting
            and (thread in self._callers or not is_only_older or thread not in self._older)
        ]

    def _rest(self, others: list[threading.Thread]) -> bool:
        """Return whether no thread calls the world for a while of real time, or computes."""
        before, runs = self._calls, list(map(_runs, others))
        self._moved.wait(_REST_S)
        return before == self._calls and None not in runs and runs == list(map(_runs, others))

    def _note_call(self) -> None:
        self._calls += 1
        self._moved.notify_all()

    # --- failures ------------------------------------------------------------------

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Run one call into the world, with the failures that were set for it."""
        with self.observe(name):
            with self.lock:
                self._callers.add(threading.current_thread())
                self._note_call()
            self._raise_failure(name, after=False)
            self.advance()
            with self.lock:
                yield
            self._raise_failure(name, after=True)

    def _raise_failure(self, call: str, *, after: bool) -> None:
        with self.lock:
            due = (f for f in self.failures if (f.call, f.after) == (call, after) and f.times > 0)
            failure = next(due, None)
            if failure is None:
                return
            failure.times -= 1
        error = failure.error
        raise error("the fake fails, as the test requests") if isinstance(error, type) else error


def _runs(thread: threading.Thread) -> str | None:
    """Return how long a thread has run, as far as the system counts it; None if it runs now."""
    task = f"/proc/self/task/{thread.native_id}"
    try:
        with open(f"{task}/stat", encoding="utf-8") as file:  # noqa: PTH123 - see locks
            state = file.read().rpartition(")")[2].split()[0]
        with open(f"{task}/schedstat", encoding="utf-8") as file:  # noqa: PTH123 - see locks
            return None if state in ("R", "D") else file.read()
    except (OSError, IndexError):
        return ""
