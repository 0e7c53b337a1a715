"""
The fake supervisor: the behaviour of the real one, on the real files.

It waits at its gate until the journal's lock is free, and runs its agent only if the saga has
committed. It writes the events FIFO and the exit file, ends the processes below it, and at the
end calls the unwinder, a function that the terminal was given.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import signal
from typing import TYPE_CHECKING

from orchestrator_core.model.environment import RESERVED_ENV
from orchestrator_core.supervisor import gate, launch
from orchestrator_core.supervisor.exit_recorder import ExitRecorder
from orchestrator_core.testing.scripts import Dies, Exits, Refuses, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.supervisor.launch import Launch
    from orchestrator_core.testing.fake_terminal import FakeTerminal
    from orchestrator_core.testing.fake_world import FakeProcess, FakeWorld


class Stage(enum.Enum):
    """The stages of a supervisor."""

    GATE = "gate"
    RUNNING = "running"
    LINGERING = "lingering"  #: The agent has requested its end, and may still exit by itself.
    CONTAINING = "containing"
    WAITING = "waiting"  #: As the unwinder, it waits for the agent's lock.
    UNWINDING = "unwinding"
    GONE = "gone"


_UNDISTURBED = (Stage.RUNNING, Stage.LINGERING)


class Supervisor:
    """The behaviour of a session's first process, if its program is the supervisor."""

    def __init__(self, terminal: FakeTerminal, process: FakeProcess, launch_path: str) -> None:
        self.agent: FakeProcess | None = None  #: The main process, until its end is recorded.
        self._terminal = terminal
        self._world = terminal._world  # noqa: SLF001 - same package
        self._process = process
        self.launch_path = launch_path
        self._stage = Stage.GATE
        self._launch: Launch = None  # type: ignore[assignment]  # set at the gate
        self._journal = -1  # Held open as by the real one: a rename does not affect it.
        self._recorder: ExitRecorder = None  # type: ignore[assignment]  # set behind it
        self._files = contextlib.ExitStack()
        self._since = 0.0
        self._forced = False

    # --- the behaviour of the process -----------------------------------------------------

    def step(self) -> bool:
        """Pass the gate if it is open, or react to the agent's end; return whether it did."""
        if self._stage is Stage.GATE:
            return self._try_gate()
        if self._stage in _UNDISTURBED and self.agent is not None and not self.agent.alive:
            self._contain("exit")
        elif self._stage is Stage.CONTAINING and not self._below():
            self._finish()
        else:
            return False
        return True

    def deferred_call(self) -> Callable[[], None] | None:
        """Return the unwinding, once the agent's lock is free; it needs the world's lock, too."""
        if self._stage is Stage.WAITING and self._lock_is_free():
            self._stage = Stage.UNWINDING
            return self._unwind
        return None

    def receive(self, signum: int) -> None:
        """Handle a signal other than SIGKILL as the real supervisor does at this stage."""
        undisturbed = self._stage in _UNDISTURBED
        panes = {session.pane_pid for session in self._world.sessions.values()}
        if self._stage is Stage.GATE or (self._stage is Stage.WAITING and signum == signal.SIGTERM):
            self._world.mark_dead(self._process)
        elif undisturbed and signum == signal.SIGTERM:
            self._contain("term")
        elif undisturbed and signum == signal.SIGHUP and self._process.pid not in panes:
            self._contain("hangup")
        elif (
            self._stage is Stage.RUNNING
            and signum == signal.SIGUSR1
            and gate.end_requested(self._journal, self._launch.journal)
        ):
            self._stage = Stage.LINGERING
            self._recorder.cause = "request"
            self._later(self._launch.linger_s, lambda: self._contain("request"))

    @property
    def identity(self) -> dict[str, str]:
        """The variables that identify the agent in its environment; none before its start."""
        env: dict[str, str] = getattr(self._launch, "env", {})
        return {name: env[name] for name in RESERVED_ENV & env.keys()}

    def ended(self) -> None:
        """Close all descriptors. Idempotent."""
        self._stage = Stage.GONE
        self._files.close()

    __del__ = ended  # A fake that a test drops must not leak descriptors.

    # --- the gate --------------------------------------------------------------------

    def _try_gate(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            if self._launch is None:
                self._launch = launch.read(self.launch_path)
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                self._journal = os.open(self._launch.journal, flags)
                self._files.callback(os.close, self._journal)
            if not self._lock_is_free():
                return False
            if gate.is_committed(self._journal):
                os.unlink(self.launch_path)  # noqa: PTH108 - as the real one
                self._stage = Stage.RUNNING
        if self._stage is Stage.RUNNING:
            self._run()
        else:
            self._world.mark_dead(self._process)
        return True

    def _lock_is_free(self) -> bool:
        """Return whether the agent's lock is free now."""
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._journal, fcntl.LOCK_UN)
        return True

    def _run(self) -> None:
        self._since = self._world.now
        self._hold_run_lock()
        self._recorder = ExitRecorder(
            self._launch.exit_file, self._launch.events, self._launch.secret
        )
        self._files.callback(self._recorder.close)
        program, cookie = self._launch.argv[0], self._launch.env.get("ORCHESTRATOR_COOKIE")
        script = script_for(self._terminal, program)
        refusal = self._cannot_start(script)
        if refusal is not None:
            self._recorder.spawn_failed(refusal)
            self._contain("refused")
            return
        agent = spawn_scripted(self._world, program, script, cookie=cookie, parent=self._process)
        if script.loses_supervisor_after_s is not None:
            self._world.schedule(
                script.loses_supervisor_after_s,
                lambda: self._world.kill(self._process, signal.SIGKILL),
            )
        self._recorder.write_start_record(
            agent.pid, agent.started, self._world.boot_id, in_cgroup=False
        )
        self.agent = agent

    def _hold_run_lock(self) -> None:
        """Hold the lock that shows to all processes that the supervisor lives."""
        run_dir = os.path.dirname(self._launch.exit_file)  # noqa: PTH120 - as the real one
        fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._files.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX)

    def _cannot_start(self, script: Script) -> str | None:
        """Open the files that a real agent gets; return the error if that fails."""
        if isinstance(script, Refuses):
            return script.message
        try:
            os.close(os.open(self._launch.cwd, os.O_RDONLY | os.O_DIRECTORY))
            os.close(os.open(self._launch.stdin, os.O_RDONLY))
            self.write(script.writes)
        except OSError as error:
            return error.strerror
        return None

    def write(self, data: bytes) -> None:
        """Append *data* to the agent's log."""
        log = os.open(self._launch.log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            os.write(log, data)
        finally:
            os.close(log)

    # --- the end ---------------------------------------------------------------------

    def _contain(self, cause: str) -> None:
        """End all processes below, by SIGTERM, then by SIGKILL if any is left."""
        self._stage = Stage.CONTAINING
        if self._recorder.cause == "exit":
            self._recorder.cause = cause
        self._end_below(signal.SIGTERM, self._launch.term_s, self._force)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Schedule *action*; it is dropped if the stage changes before."""
        stage = self._stage
        self._world.schedule(delay_s, lambda: action() if self._stage is stage else None)

    def _force(self) -> None:
        self._forced = True
        self._end_below(signal.SIGKILL, self._launch.kill_s, self._finish)

    def _end_below(self, signum: int, wait_s: float, then: Callable[[], None]) -> None:
        """Signal all processes below; finish, or do *then* if any is left after *wait_s*."""
        for process in self._below():
            self._world.kill(process, signum)
        self._record_exit()
        if self._below():
            self._later(wait_s, then)
        else:
            self._finish()

    def _finish(self) -> None:
        self._record_exit()
        self._recorder.all_exited(tree_empty=not self._below(), forced=self._forced)
        unwinding = gate.is_unwinding(self._journal, self._launch.journal)
        if self._terminal.unwinder is None or not self._launch.unwinder_argv or unwinding:
            self._world.mark_dead(self._process)
        else:
            self._stage = Stage.WAITING

    def _record_exit(self) -> None:
        """Record how the agent's main process ended, once it has."""
        if self.agent is not None and not self.agent.alive:
            status = self.agent.died_of or (self.agent.code or 0) << 8
            self._recorder.exited(status, self._world.now - self._since)
            self.agent = None

    def _unwind(self) -> None:
        """Call the unwinder as this process, which then exits."""
        unwinder = self._terminal.unwinder
        try:
            if unwinder is not None:
                with self._world.as_process(self._process):
                    unwinder(self._launch.unwinder_argv)
        except Exception as error:  # noqa: BLE001 - as a real program it would exit with 1
            self._terminal.errors.append(error)
        finally:
            with self._world.lock:
                self._world.mark_dead(self._process)

    def _below(self) -> list[FakeProcess]:
        return [p for p in list(self._world.processes.values()) if p.is_below(self._process)]


def script_for(terminal: FakeTerminal, program: str) -> Script:
    """Return the script of *program*'s next life, by the last part of its path."""
    name = os.path.basename(program)  # noqa: PTH119 - one name
    script = terminal.agents.get(name, terminal.default)
    if isinstance(script, Script):
        return script
    life = terminal.lives.get(id(script), 0)
    terminal.lives[id(script)] = life + 1
    return script[min(life, len(script) - 1)]


def spawn_scripted(world: FakeWorld, name: str, script: Script, **traits: object) -> FakeProcess:
    """Start a process that follows *script*, with *traits*, and the script's other processes."""
    process = world.spawn(
        name, ignores_term=script.ignores_term, unkillable=script.unkillable, **traits
    )
    if script.daemon:
        world.spawn(f"{name}-daemon", ignores_term=True, **traits)
    if script.stray:
        world.spawn(f"{name}-stray", ignores_term=True, cookie=process.cookie)
    if isinstance(script, Exits):
        world.schedule(script.after_s, lambda: world.mark_dead(process, code=script.code))
    elif isinstance(script, Dies):
        world.schedule(script.after_s, lambda: world.mark_dead(process, died_of=script.signal))
    return process
