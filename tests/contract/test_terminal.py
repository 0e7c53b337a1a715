"""The Terminal protocol: the same tests for real tmux and for the fake."""

from __future__ import annotations

import os
import signal
import time

import pytest

from orchestrator_core.exceptions import (
    InvalidId,
    InvalidInput,
    SessionExists,
    TerminalTimeout,
)
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.processes import LocalProcesses
from orchestrator_core.system.terminal import Session, SessionState
from orchestrator_core.system.tmux import TmuxTerminal
from orchestrator_core.testing import FakeTerminal

RUNS = ["sleep", "1000"]


class RealWorld:
    """Real tmux on a private socket."""

    def __init__(self, tmux, killed):
        self._tmux = tmux
        self._killed = killed
        self.terminal = TmuxTerminal(tmux.socket)
        self.processes = LocalProcesses()

    def hang(self):
        self.terminal.timeout_s = 0.3
        self._stopped = self._tmux.pid
        os.kill(self._stopped, signal.SIGSTOP)

    def resume(self):
        os.kill(self._stopped, signal.SIGCONT)
        self.terminal.timeout_s = 10

    def kill_server(self):
        self._killed(self._tmux.pid)

    def lose_socket(self):
        self._tmux.socket.unlink()

    def start_foreign_session(self, name):
        self._tmux.begin()
        self._tmux.ask("new-session", "-d", "-s", name, "sleep", "1000")

    def close(self):
        if hasattr(self, "_stopped"):
            self.resume()


class FakeWorld:
    """The fake."""

    def __init__(self):
        self.terminal = FakeTerminal()
        self.processes = self.terminal.processes
        self.lose_socket = self.terminal.lose_socket
        self.hang = self.terminal.hang
        self.resume = self.terminal.resume
        self.kill_server = self.terminal.kill_server
        self.start_foreign_session = self.terminal.start_foreign_session


@pytest.fixture(params=["fake", pytest.param("tmux", marks=pytest.mark.tmux)])
def world(request):
    if request.param == "fake":
        yield FakeWorld()
        return
    real = RealWorld(request.getfixturevalue("private_tmux"), request.getfixturevalue("killed"))
    yield real
    real.close()


@pytest.fixture
def terminal(world):
    return world.terminal


def test_check_returns_the_name_and_version(terminal):
    assert terminal.check().split()[0] in ("tmux", "fake")


def test_a_missing_server_has_no_sessions_and_is_no_error(terminal):
    assert () == terminal.sessions()
    assert SessionState(Presence.ABSENT) == terminal.inspect("agent_1", owner="c1")
    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")


def test_a_started_session_is_listed_with_its_name_and_owner(terminal):
    started = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert "agent_1" == started.name
    assert "c1" == started.owner
    assert (started,) == terminal.sessions()
    assert SessionState(Presence.OURS, started) == terminal.inspect("agent_1", owner="c1")


def test_a_killed_session_is_gone_and_a_new_one_can_start(terminal):
    """A start directly after the kill of the last session always works."""
    for _ in range(5):
        terminal.start("agent_1", owner="c1", argv=RUNS)

        assert Presence.OURS == terminal.kill("agent_1", owner="c1")
        assert () == terminal.sessions()
        assert SessionState(Presence.ABSENT) == terminal.inspect("agent_1", owner="c1")


def test_a_second_kill_finds_nothing(terminal):
    terminal.start("agent_2", owner="c2", argv=RUNS)
    terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.kill("agent_1", owner="c1")

    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")


def test_a_name_can_be_taken_once(terminal):
    """A second start of one name is refused, and the first session goes on."""
    first = terminal.start("agent_1", owner="c1", argv=RUNS)

    with pytest.raises(SessionExists, match="agent_1"):
        terminal.start("agent_1", owner="c2", argv=RUNS)

    assert (first,) == terminal.sessions()


def test_a_name_can_be_taken_again_after_a_kill(terminal):
    first = terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.kill("agent_1", owner="c1")

    second = terminal.start("agent_1", owner="c2", argv=RUNS)

    assert first.pane_pid != second.pane_pid
    assert Presence.OURS == terminal.inspect("agent_1", owner="c2").presence


def test_a_name_is_never_matched_by_its_prefix(terminal):
    """With only agent_10 present, agent_1 is absent, and its kill kills nothing."""
    ten = terminal.start("agent_10", owner="c1", argv=RUNS)

    assert SessionState(Presence.ABSENT) == terminal.inspect("agent_1", owner="c1")
    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")
    assert (ten,) == terminal.sessions()


def test_a_session_of_another_owner_is_foreign_and_left_alone(terminal):
    theirs = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert SessionState(Presence.FOREIGN, theirs) == terminal.inspect("agent_1", owner="c2")
    assert Presence.FOREIGN == terminal.kill("agent_1", owner="c2")
    assert (theirs,) == terminal.sessions()


def test_an_owner_is_compared_whole(terminal):
    """Neither a prefix nor an extension of an owner is that owner."""
    theirs = terminal.start("agent_1", owner="c1.x", argv=RUNS)

    for owner in ("c1", "c1.xy"):
        assert Presence.FOREIGN == terminal.inspect("agent_1", owner=owner).presence
        assert Presence.FOREIGN == terminal.kill("agent_1", owner=owner)
    assert (theirs,) == terminal.sessions()


def test_an_owner_may_contain_dots_colons_dashes_and_underscores(terminal):
    owner = "0a1b2c3d:agent-7_x.y"
    session = terminal.start("agent_1", owner=owner, argv=RUNS)

    assert owner == session.owner
    assert Presence.OURS == terminal.inspect("agent_1", owner=owner).presence
    assert Presence.OURS == terminal.kill("agent_1", owner=owner)


def test_a_session_without_an_owner_is_foreign(world, terminal):
    """The session is listed and left alone."""
    world.start_foreign_session("agent_1")

    assert [("agent_1", None)] == [(s.name, s.owner) for s in terminal.sessions()]
    assert Presence.FOREIGN == terminal.inspect("agent_1", owner="c1").presence
    assert Presence.FOREIGN == terminal.kill("agent_1", owner="c1")
    with pytest.raises(SessionExists):
        terminal.start("agent_1", owner="c1", argv=RUNS)
    assert ["agent_1"] == [s.name for s in terminal.sessions()]


def test_sessions_lists_all_sessions_of_one_server(terminal):
    started = {terminal.start(f"agent_{n}", owner=f"c{n}", argv=RUNS) for n in range(5)}

    assert started == set(terminal.sessions())
    assert 1 == len({session.server_pid for session in started})
    assert 5 == len({session.pane_pid for session in started})


def test_a_hanging_server_is_unknown_never_absent(world, terminal):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    world.hang()

    assert Presence.UNKNOWN == terminal.inspect("agent_1", owner="c1").presence
    assert Presence.UNKNOWN == terminal.inspect("agent_2", owner="c2").presence
    assert "did not answer within" in terminal.inspect("agent_1", owner="c1").why
    with pytest.raises(TerminalTimeout):
        terminal.sessions()
    world.resume()
    assert SessionState(Presence.OURS, session) == terminal.inspect("agent_1", owner="c1")


def test_a_session_may_appear_after_a_timeout_of_its_start(world, terminal):
    """The server has received the command, and runs it when it continues."""
    terminal.start("agent_1", owner="c1", argv=RUNS)
    world.hang()
    with pytest.raises(TerminalTimeout):
        terminal.start("agent_2", owner="c2", argv=RUNS)

    world.resume()

    assert Presence.OURS == terminal.inspect("agent_2", owner="c2").presence


def test_a_session_may_end_after_a_timeout_of_its_kill(world, terminal):
    terminal.start("agent_1", owner="c1", argv=RUNS)
    world.hang()
    with pytest.raises(TerminalTimeout):
        terminal.kill("agent_1", owner="c1")

    world.resume()

    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")


def test_a_killed_server_has_no_sessions_and_starts_again(world, terminal):
    terminal.start("agent_1", owner="c1", argv=RUNS)
    world.kill_server()

    assert () == terminal.sessions()
    assert SessionState(Presence.ABSENT) == terminal.inspect("agent_1", owner="c1")
    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")
    again = terminal.start("agent_1", owner="c2", argv=RUNS)
    assert (again,) == terminal.sessions()


HOSTILE_NAMES = [
    "",
    "#(touch /tmp/executed)",
    "a.b",
    "a:b",
    "a b",
    "a\nb",
    "=a",
    "../a",
    "$1",
    "é",
    "a" * 300,
    "a\0",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_tmux_would_interpret_is_refused(terminal, name):
    with pytest.raises(InvalidId, match="cannot name a session"):
        terminal.start(name, owner="c1", argv=RUNS)
    with pytest.raises(InvalidId):
        terminal.kill(name, owner="c1")

    assert Presence.UNKNOWN == terminal.inspect(name, owner="c1").presence
    assert () == terminal.sessions()


@pytest.mark.parametrize("owner", ["", "a,b", "a}b", "#{pid}", "a b", "a\n", "é"])
def test_an_owner_that_tmux_would_interpret_is_refused(terminal, owner):
    with pytest.raises(InvalidInput, match="cannot own a session"):
        terminal.start("agent_1", owner=owner, argv=RUNS)
    with pytest.raises(InvalidInput):
        terminal.kill("agent_1", owner=owner)

    assert () == terminal.sessions()


@pytest.mark.parametrize("argv", [[], [""], ["sleep", "1\0"]])
def test_arguments_that_no_program_can_get_are_refused(terminal, argv):
    with pytest.raises(InvalidInput):
        terminal.start("agent_1", owner="c1", argv=argv)

    assert () == terminal.sessions()


def test_a_session_is_a_value(terminal):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert Session("agent_1", "c1", session.pane_pid, session.server_pid) == session


# --- what the kernel shows of a pane ------------------------------------------------------------


def test_a_server_without_its_socket_reads_as_no_server_until_it_makes_it_anew(world, terminal):
    """Its programs keep their terminals meanwhile, and lead to it."""
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    program = world.processes.identify(session.pane_pid)
    world.lose_socket()

    assert () == terminal.sessions()
    assert Presence.ABSENT == terminal.inspect("agent_1", owner="c1").presence
    assert Presence.ABSENT == terminal.kill("agent_1", owner="c1")
    pane = world.processes.pane_of(program)
    assert (False, session.server_pid) == (pane.hung_up, pane.server.pid)

    assert world.processes.signal(pane.server, signal.SIGUSR1)
    deadline = time.monotonic() + 20
    while terminal.sessions() != (session,):
        assert time.monotonic() < deadline
    assert pane == world.processes.pane_of(program)


def test_a_program_that_has_ended_has_no_pane(world, terminal):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    program = world.processes.identify(session.pane_pid)
    terminal.kill("agent_1", owner="c1")
    assert world.processes.watch(program, timeout_s=20).exited

    assert world.processes.pane_of(program) is None
