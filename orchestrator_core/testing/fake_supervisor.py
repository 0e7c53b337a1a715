"""
The fake supervisor: the behaviour of the real one, on the real files.

It waits at its gate until the journal's lock is free, and runs its agent only if the saga has
committed. It writes the events FIFO and the exit file, ends the processes below it, and at the
end calls the unwinder, a function that the terminal was given.
"""

from __future__ import annotations

import enum
import os
import signal
from typing import TYPE_CHECKING

from orchestrator_core.supervisor import gate, launch
from orchestrator_core.testing.fake_files import FakeExitRecorder, FakeJournal
from orchestrator_core.testing.scripts import Dies, Exits, Refuses, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator_core.testing.fake_world import FakeProcess, FakeWorld

    Unwinder = Callable[[list[str]], None]


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
    """The role of a session's first process, if its program is the supervisor."""

    def __init__(
        self,
        world: FakeWorld,
        process: FakeProcess,
        launch_path: str,
        *,
        script_for: Callable[[list[str]], Script],
        unwinder: Callable[[], Unwinder | None],
    ) -> None:
        self._world = world
        self._process = process
        self._launch_path = launch_path
        self._script_for = script_for
        self._unwinder = unwinder
        self._stage = Stage.GATE
        self._launch: launch.Launch = None  # type: ignore[assignment]  # set at the gate
        self._journal = FakeJournal()
        self._recorder: FakeExitRecorder = None  # type: ignore[assignment]  # set behind it
        self._agent: FakeProcess | None = None
        self._since = 0.0
        self._forced = False

    # --- the role ----------------------------------------------------------------------

    def step(self) -> bool:
        """Pass the gate if it is open; react to the agent's end."""
        if self._stage is Stage.GATE:
            return self._try_gate()
        if self._stage in _UNDISTURBED and self._agent is not None and not self._agent.alive:
            self._contain("exit")
            return True
        if self._stage is Stage.CONTAINING and not self._below():
            self._finish()
            return True
        return False

    def deferred_call(self) -> Callable[[], None] | None:
        """Return the unwinding, once the agent's lock is free."""
        if self._stage is Stage.WAITING and self._journal.is_free():
            self._stage = Stage.UNWINDING
            return self._unwind
        return None

    def receive(self, signum: int) -> None:
        """Handle a signal as the real supervisor does at this stage."""
        if self._stage is Stage.GATE:
            self._world.mark_dead(self._process)
        elif self._stage in _UNDISTURBED:
            self._receive_undisturbed(signum)
        elif self._stage is Stage.WAITING and signum == signal.SIGTERM:
            self._world.mark_dead(self._process)

    def ended(self) -> None:
        """Close all descriptors."""
        self._stage = Stage.GONE
        self._journal.close()
        if self._recorder is not None:
            self._recorder.close()

    # --- the gate --------------------------------------------------------------------

    def _try_gate(self) -> bool:
        try:
            if self._launch is None:
                self._launch = launch.read(self._launch_path)
                self._journal.open(self._launch.journal)
            if not self._journal.is_free():
                return False
            committed = self._journal.ask(gate.is_committed)
            if committed:
                os.unlink(self._launch_path)  # noqa: PTH108 - as the real one
        except (OSError, ValueError):
            committed = False
        if committed:
            self._recorder = FakeExitRecorder(self._launch, self._world.boot_id)
            self._run(self._script_for(self._launch.argv))
        else:
            self._world.mark_dead(self._process)
        return True

    def _run(self, script: Script) -> None:
        self._stage = Stage.RUNNING
        self._since = self._world.now
        refusal = self._cannot_start(script)
        if refusal is not None:
            self._recorder.spawn_failed(refusal)
            self._contain("refused")
            return
        self._agent = spawn_scripted(
            self._world,
            self._launch.argv[0],
            script,
            cookie=self._launch.env.get("ORCHESTRATOR_COOKIE"),
            parent=self._process,
        )
        if script.loses_supervisor_after_s is not None:
            self._world.schedule(
                script.loses_supervisor_after_s,
                lambda: self._world.kill(self._process, signal.SIGKILL),
            )
        self._recorder.record_start(self._agent)

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

    def _receive_undisturbed(self, signum: int) -> None:
        lost_terminal = all(s.process is not self._process for s in self._world.sessions.values())
        if signum == signal.SIGTERM:
            self._contain("term")
        elif signum == signal.SIGHUP and lost_terminal:
            self._contain("hangup")
        elif (
            signum == signal.SIGUSR1
            and self._stage is Stage.RUNNING
            and self._journal.ask_by_path(gate.end_requested)
        ):
            self._stage = Stage.LINGERING
            self._recorder.cause = "request"
            self._world.schedule(self._launch.linger_s, self._linger_over)

    def _linger_over(self) -> None:
        if self._stage is Stage.LINGERING:
            self._contain("request")

    def exit(self, code: int | None, signum: int | None) -> None:
        """End the agent's main process."""
        if self._agent is not None:
            self._world.mark_dead(self._agent, code=code, died_of=signum)

    def _contain(self, cause: str) -> None:
        """End all processes below, by SIGTERM, then by SIGKILL if any is left."""
        self._stage = Stage.CONTAINING
        if self._recorder.cause == "exit":
            self._recorder.cause = cause
        self._signal_below(signal.SIGTERM)
        if self._below():
            self._deliver_events()
            self._world.schedule(self._launch.term_s, self._force)
        else:
            self._finish()

    def _force(self) -> None:
        if self._stage is not Stage.CONTAINING:
            return
        self._forced = True
        self._signal_below(signal.SIGKILL)
        if self._below():
            self._world.schedule(self._launch.kill_s, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._stage is not Stage.CONTAINING:
            return
        self._deliver_events(last=True)
        self._recorder.all_exited(tree_empty=not self._below(), forced=self._forced)
        unwinding = self._journal.ask_by_path(gate.is_unwinding)
        if self._unwinder() is None or not self._launch.unwinder_argv or unwinding:
            self._world.mark_dead(self._process)
        else:
            self._stage = Stage.WAITING

    def _unwind(self) -> None:
        """Call the unwinder as this process, which then exits."""
        unwinder = self._unwinder()
        try:
            if unwinder is not None:
                with self._world.as_process(self._process):
                    unwinder(self._launch.unwinder_argv)
        except Exception as error:  # noqa: BLE001 - as a real program it would exit with 1
            self._world.errors.append(error)
        finally:
            with self._world.lock:
                self._world.mark_dead(self._process)

    def _below(self) -> list[FakeProcess]:
        return [p for p in list(self._world.processes.values()) if p.is_below(self._process)]

    def _signal_below(self, signum: int) -> None:
        for process in self._below():
            self._world.kill(process, signum)

    def _deliver_events(self, *, last: bool = False) -> None:
        """Record the end of the agent's main process, if it has ended; *last* precedes the rest."""
        if self._agent is not None and not self._agent.alive:
            status = self._agent.died_of or (self._agent.code or 0) << 8
            self._recorder.silent = last
            self._recorder.exited(status, self._world.now - self._since)
            self._recorder.silent = False


def spawn_scripted(
    world: FakeWorld,
    name: str,
    script: Script,
    *,
    cookie: str | None,
    parent: FakeProcess | None,
) -> FakeProcess:
    """Start a process that follows *script*, and the other processes of the script."""
    process = world.spawn(
        name,
        cookie=cookie,
        parent=parent,
        ignores_term=script.ignores_term,
        unkillable=script.unkillable,
    )
    if script.daemon:
        world.spawn(f"{name}-daemon", cookie=cookie, parent=parent, ignores_term=True)
    if script.stray:
        world.spawn(f"{name}-stray", cookie=cookie, ignores_term=True)
    if isinstance(script, Exits):
        world.schedule(script.after_s, lambda: world.mark_dead(process, code=script.code))
    elif isinstance(script, Dies):
        world.schedule(script.after_s, lambda: world.mark_dead(process, died_of=script.signal))
    return process
