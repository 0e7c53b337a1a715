"""The fake terminal: tmux, as far as a deployment can observe it."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, TypeVar

from orchestrator_core.exceptions import (
    InvalidId,
    NotFound,
    SessionExists,
    TerminalError,
)
from orchestrator_core.model.environment import acting_with
from orchestrator_core.system import one_timeout
from orchestrator_core.system.deprecation import renamed_attributes, renamed_keyword, warn_renamed
from orchestrator_core.system.names import check_argv, check_name, check_owner
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.terminal import Session, SessionState
from orchestrator_core.testing.fake_processes import RENAMED_METHODS, FakeProcesses
from orchestrator_core.testing.fake_supervisor import Supervisor, script_for, spawn_scripted
from orchestrator_core.testing.fake_world import Failure, FakeProcess, FakeWorld
from orchestrator_core.testing.scripts import Runs, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator_core.reconcile.legacy.server_protocol import LegacyServer, LegacySession

T = TypeVar("T")

_RENAMED_CALLS = {
    "look": "inspect",
    "end": "kill",
    **{f"processes.{old}": f"processes.{new}" for old, new in RENAMED_METHODS.items()},
}
_SUPERVISOR = "orchestrator_core.supervisor"  # in the argv of supervisors only


@renamed_attributes(look="inspect", end="kill", intrude="start_foreign_session")
class FakeTerminal:
    """
    A :class:`~orchestrator_core.system.terminal.Terminal` in memory, with its own fake world.

    *agents* maps the name of a program (the last part of its path) to the script of its agents,
    or to a list of scripts, for one life after another; the last one stays. All others get
    *default*. ``processes`` is the
    :class:`~orchestrator_core.system.processes.protocol.Processes` of the same world.
    ``unwinder`` is called in place of a supervisor's last exec, with its argument list, when
    the agent's lock is free. None means that the supervisor exits instead.
    """

    @renamed_keyword("heir", "unwinder")
    def __init__(
        self,
        agents: Mapping[str, Script | Sequence[Script]] | None = None,
        *,
        default: Script | None = None,
        unwinder: Callable[[list[str]], None] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.agents: dict[str, Script | Sequence[Script]] = dict(agents or {})
        self.lives: dict[int, int] = {}  #: How many lives each list of scripts has had.
        self.default = default or Runs()
        self.unwinder = unwinder
        self.timeout_s = timeout_s
        self.legacy_server: LegacyServer = NullServer()  #: There are no legacy agents.
        self._world = FakeWorld()
        #: The errors of unwinders; as real programs they would have exited with 1.
        self.errors: list[Exception] = []
        self._in_flight: list[Callable[[], object]] = []
        self.processes = FakeProcesses(self._world)

    @property
    def heir(self) -> Callable[[list[str]], None] | None:
        """The old name of ``unwinder``."""
        warn_renamed("FakeTerminal.heir", "FakeTerminal.unwinder")
        return self.unwinder

    @heir.setter
    def heir(self, unwinder: Callable[[list[str]], None] | None) -> None:
        warn_renamed("FakeTerminal.heir", "FakeTerminal.unwinder")
        self.unwinder = unwinder

    # --- the terminal --------------------------------------------------------------

    def check(self) -> str:
        """Return the fake's name."""
        with self._world.call("check"):
            return "fake 1.0"

    def start(self, name: str, *, owner: str, argv: Sequence[str]) -> Session:
        """Start a session; see the protocol."""
        check_name(name)
        check_owner(owner)
        program = list(check_argv(argv))
        return self._request("start", lambda: self._start(name, owner, program))

    def inspect(self, name: str, *, owner: str) -> SessionState:
        """Return whether the session is there, and *owner*'s; see the protocol."""
        try:
            check_name(name)
            return self._request("inspect", lambda: self._inspect(name, owner))
        except (InvalidId, TerminalError) as error:
            return SessionState(Presence.UNKNOWN, why=str(error))

    def kill(self, name: str, *, owner: str) -> Presence:
        """End the session if it is *owner*'s; see the protocol."""
        check_name(name)
        check_owner(owner)
        return self._request("kill", lambda: self._kill(name, owner))

    def sessions(self) -> tuple[Session, ...]:
        """List all sessions; see the protocol."""
        return self._request("sessions", lambda: tuple(self._reachable().values()))

    # --- state of the world --------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds of virtual time since the world began."""
        return self._world.now

    def alive(self) -> tuple[FakeProcess, ...]:
        """Return all living processes but the terminal's server."""
        self._world.advance()
        return tuple(p for p in list(self._world.processes.values()) if p is not self._world.server)

    # --- events ------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let *seconds* of virtual time pass, with all events that are due."""
        self._world.wait(lambda: False, seconds)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """
        Let the calling thread act as the agent of session *name* within the block.

        Calls without an agent's id then mean that agent, as in the agent's own environment.
        """
        self._world.advance()
        root = self._process(name)
        agent = next((p for p in list(self._world.processes.values()) if p.parent is root), root)
        own = {} if root.role is None else root.role.identity
        with self._world.as_process(agent), acting_with(own):
            yield

    def write(self, name: str, data: bytes) -> None:
        """Let the agent of session *name* write *data* to its log."""
        self._world.advance()
        self._supervisor(name).write(data)

    def exit(self, name: str, code: int | None = 0, *, signum: int | None = None) -> None:
        """Let the agent of session *name* exit with *code*, or die of *signum*, now."""
        self._world.advance()
        with self._world.lock:
            agent = self._supervisor(name).agent
            if agent is not None:
                self._world.mark_dead(agent, code=None if signum else code, died_of=signum)
        self._world.advance()

    def kill_supervisor(self, name: str) -> None:
        """Kill the supervisor of session *name* by SIGKILL; its agent lives on."""
        with self._world.lock:
            self._world.kill(self._process(name), signal.SIGKILL)

    def start_foreign_session(self, name: str, *, owner: str | None = None) -> None:
        """Start session *name* with a process that is no agent."""
        with self._world.lock:
            self._add_session(name, owner, self._world.spawn("stranger"))

    def kill_server(self) -> None:
        """Kill the terminal's server: its sessions are gone, their processes get SIGHUP."""
        with self._world.lock:
            self._in_flight.clear()
            self._world.hung = self._world.socket_lost = False
            if self._world.server is not None:
                self._world.mark_dead(self._world.server)
                self._world.server = None
            for name in list(self._world.sessions):
                self._world.drop_session(name)

    def reboot(self) -> None:
        """Reboot the machine: only files are left."""
        self._in_flight.clear()
        self.resume()
        self._world.restart()

    def hang(self) -> None:
        """Stop the server: its calls time out."""
        self._world.hung = True

    def lose_socket(self) -> None:
        """
        Remove the server's socket, as a cleaner of /tmp does: the server lives, unreachable.

        Calls find no server until the server gets a SIGUSR1, at which it makes its socket anew.
        """
        self._world.socket_lost = True

    def refuse(self, why: str = "the fake terminal refuses, as the test requests") -> None:
        """Let every call of the server raise TerminalError with *why*."""
        self._world.refusal = why

    def resume(self) -> None:
        """End :meth:`hang` and :meth:`refuse`; the server runs the calls that timed out."""
        with self._world.lock:
            self._world.hung, self._world.refusal = False, ""
            for order in self._in_flight:
                with contextlib.suppress(SessionExists):  # The client does not wait any more.
                    order()
            self._in_flight.clear()

    def fail(
        self,
        call: str,
        error: BaseException | type[BaseException] = TerminalError,
        *,
        times: float = 1,
        after: bool = False,
    ) -> None:
        """
        Let *call* raise *error*: before it changes anything, or *after* its change.

        *call* is a method of the terminal (``"start"``), or of its processes
        (``"processes.terminate_all"``). With ``times=math.inf`` it fails until :meth:`mend`.
        ``inspect`` returns UNKNOWN instead of raising.
        """
        if call in _RENAMED_CALLS:
            warn_renamed(f"the call {call!r}", f"{_RENAMED_CALLS[call]!r}")
        self._world.failures.append(Failure(_RENAMED_CALLS.get(call, call), error, times, after))

    def mend(self) -> None:
        """Remove all failures that :meth:`fail` has set."""
        self._world.failures.clear()

    # --- implementation ---------------------------------------------------------------------------

    def _request(self, call: str, order: Callable[[], T]) -> T:
        """Run *order* as a call of the server; if the server hangs, :meth:`resume` runs it."""
        with self._world.call(call):
            if self._world.refusal:
                raise TerminalError(self._world.refusal)
            if not self._world.hung:
                return order()
            server = f"fake {id(self)}"
            one_timeout.check(server)
            self._in_flight.append(order)
            self._world.now += self.timeout_s
            message = f"the fake terminal did not answer within {self.timeout_s:g} s"
            raise one_timeout.timeout_of(server, message)

    def _start(self, name: str, owner: str, argv: list[str]) -> Session:
        if self._world.socket_lost:  # With real tmux, a second server would start.
            raise TerminalError("the fake's server has lost its socket, and the fake has only one")
        if name in self._world.sessions:
            raise SessionExists(f"session {name!r} already exists")
        if _SUPERVISOR in "\0".join(argv):
            process = self._world.spawn("supervisor", cookie=owner)
            process.role = Supervisor(self, process, argv[-1])
        else:
            process = spawn_scripted(self._world, argv[0], script_for(self, argv[0]), cookie=owner)
        return self._add_session(name, owner, process)

    def _add_session(self, name: str, owner: str | None, process: FakeProcess) -> Session:
        if self._world.server is None:
            self._world.server = self._world.spawn("tmux: server")
        session = Session(name, owner, process.pid, self._world.server.pid)
        self._world.sessions[name] = session
        return session

    def _inspect(self, name: str, owner: str) -> SessionState:
        session = self._reachable().get(name)
        if session is None:
            return SessionState(Presence.ABSENT)
        return SessionState(Presence.OURS if session.owner == owner else Presence.FOREIGN, session)

    def _kill(self, name: str, owner: str) -> Presence:
        presence = self._inspect(name, owner).presence
        if presence is Presence.OURS:
            self._world.drop_session(name)
        return presence

    def _reachable(self) -> dict[str, Session]:
        return {} if self._world.socket_lost else self._world.sessions

    def _process(self, name: str) -> FakeProcess:
        session = self._world.sessions.get(name)
        if session is None:
            raise NotFound(f"the fake world has no session {name!r}")
        return self._world.processes[session.pane_pid]

    def _supervisor(self, name: str) -> Supervisor:
        role = self._process(name).role
        if role is None:
            raise NotFound(f"session {name!r} of the fake world has no supervisor")
        return role


class NullServer:
    """The user's default tmux server, without sessions: no legacy agents."""

    def sessions(self) -> tuple[LegacySession, ...]:
        """Return no sessions."""
        return ()

    def end(self, session: LegacySession) -> Presence:  # noqa: ARG002 - the protocol's
        """Return ABSENT."""
        return Presence.ABSENT
