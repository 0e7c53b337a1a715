"""
The fake world: processes, sessions, a virtual clock, and a schedule of events.

The world changes only when it is called. Each call first runs :meth:`FakeWorld.advance`: the
events that are due happen, and each process that waits at a gate or for a lock tries again.
:meth:`FakeWorld.wait` moves the clock to the next event, and never sleeps.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Above the largest pid on Linux: a real kill() finds no process.
_FIRST_PID = 5_000_001
_HARMLESS = (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCHLD, signal.SIGWINCH)
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
    role: Role | None = attrs.field(default=None, repr=False)

    def is_below(self, ancestor: FakeProcess) -> bool:
        """Return whether this process descends from *ancestor*."""
        return self.parent is not None and (
            self.parent is ancestor or self.parent.is_below(ancestor)
        )


class Role(Protocol):
    """The behaviour of a process: it handles signals, and acts when the world advances."""

    def receive(self, signum: int) -> None:
        """Handle a signal other than SIGKILL."""
        ...

    def ended(self) -> None:
        """Release what the role holds: the process is dead."""
        ...

    def step(self) -> bool:
        """Do what can be done now; return whether anything was done."""
        ...

    def deferred_call(self) -> Callable[[], None] | None:
        """Return a call to run now without the world's lock; None if there is none."""
        ...


@attrs.define(eq=False)
class FakeSession:
    """A session of the fake world."""

    name: str
    owner: str | None
    process: FakeProcess


@attrs.define(eq=False)
class _Failure:
    error: BaseException | type[BaseException]
    times: float
    after: bool


class FakeWorld:
    """All processes, sessions and events, under one lock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.boot_id = "fake-boot-1"
        self.server: FakeProcess | None = None
        self.hung = False
        self.refusal = ""
        self.sessions: dict[str, FakeSession] = {}
        self.processes: dict[int, FakeProcess] = {}
        self.errors: list[Exception] = []
        self.lock = threading.RLock()
        self._schedule: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._pids = itertools.count(_FIRST_PID)
        self._failures: dict[str, list[_Failure]] = {}
        self._local = threading.local()

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
        for session in [s for s in self.sessions.values() if s.process is process]:
            del self.sessions[session.name]
        if process.role is not None:
            process.role.ended()

    def drop_session(self, session: FakeSession) -> None:
        """Remove a session; its process gets a SIGHUP."""
        del self.sessions[session.name]
        self.kill(session.process, signal.SIGHUP)

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
                moved = self._run_due()
                roles = [p.role for p in list(self.processes.values()) if p.role is not None]
                stepped = [role.step() for role in roles]
                calls = [call for role in roles if (call := role.deferred_call()) is not None]
            # A call takes its own locks; their holders may be waiting for the world's lock.
            for call in calls:
                call()
            if not (moved or any(stepped) or calls):
                return

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Let time pass until *until* holds, at most *timeout_s*; return whether it does."""
        deadline = self.now + timeout_s
        while True:
            self.advance()
            if until():
                return True
            with self.lock:
                if self.now >= deadline:
                    return False
                due = self._schedule[0][0] if self._schedule else deadline
                self.now = max(self.now, min(due, deadline))

    def _run_due(self) -> bool:
        moved = False
        while self._schedule and self._schedule[0][0] <= self.now:
            heapq.heappop(self._schedule)[2]()
            moved = True
        return moved

    # --- failures ------------------------------------------------------------------

    def restart(self) -> None:
        """Reboot the machine: all processes and sessions are gone, without a signal."""
        with self.lock:
            for process in self.processes.values():
                process.alive = False
                if process.role is not None:
                    process.role.ended()
            self.processes.clear()
            self.sessions.clear()
            self._schedule.clear()
            self.server = None
            self.hung, self.refusal = False, ""
            self.boot_id = f"fake-boot-{next(self._pids)}"

    def fail(
        self, call: str, error: BaseException | type[BaseException], times: float, *, after: bool
    ) -> None:
        """Let *call* raise *error*."""
        self._failures.setdefault(call, []).append(_Failure(error, times, after))

    def mend(self) -> None:
        """Remove all failures."""
        self._failures.clear()

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Run one call into the world, with the failures that were set for it."""
        self._raise_failure(name, after=False)
        self.advance()
        with self.lock:
            yield
        self._raise_failure(name, after=True)

    def _raise_failure(self, call: str, *, after: bool) -> None:
        if call not in self._failures:
            return
        with self.lock:
            waiting = [f for f in self._failures.get(call, ()) if f.after is after and f.times > 0]
            if not waiting:
                return
            waiting[0].times -= 1
        error = waiting[0].error
        raise error("the fake was told to fail") if isinstance(error, type) else error

    def is_orchestrator(self, pid: int) -> bool:
        """Return whether *pid* is the real calling process, which is part of the world, too."""
        return pid == os.getpid()
