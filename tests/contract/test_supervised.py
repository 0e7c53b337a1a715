"""
What a supervised session does, asked of the real supervisor and of the fake one.

Both read and write the same files: a journal written by hand, a launch, a log,
the events FIFO and the exit file. Nothing else of the library takes part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
import uuid

import psutil
import pytest

from orchestrator_core.processes import LocalProcesses
from orchestrator_core.processes.port import Claim, Identity, Patience
from orchestrator_core.supervisor import command, launch
from orchestrator_core.terminal import Presence
from orchestrator_core.testing import Dies, Exits, FakeTerminal, Refuses, Runs
from orchestrator_core.tmux import TmuxTerminal

NAME = "agent_agent-1"
LONG_S = 20

#: Each agent twice: as a program, and as the fake's script of it.
AGENTS = {
    "runs": ("exec sleep 1000", Runs()),
    "speaks": ("echo one; echo two >&2; exec sleep 1000", Runs(writes=b"one\ntwo\n")),
    "exits-0": ("exit 0", Exits(0)),
    "exits-3": ("sleep 0.1; exit 3", Exits(3, after_s=0.1)),
    "dies": ("kill -SEGV $$", Dies(signal.SIGSEGV)),
    "stubborn": ("trap '' TERM HUP; exec sleep 1000", Runs(ignores_term=True)),
    "leaves-a-daemon": (
        "(trap '' TERM HUP; setsid sleep 1000 & ) ; exit 0",
        Exits(0, daemon=True),
    ),
    "missing": (None, Refuses()),
}


class Stage:
    """One agent's files, and the world it is started in."""

    def __init__(self, place, terminal, processes, *, patience):
        self.place = place
        self.terminal = terminal
        self.processes = processes
        self.patience = patience
        self.cookie = f"root.{uuid.uuid4()}"
        self.run = place / "run"
        self.run.mkdir()
        self.journal = place / "agent-1.jsonl"
        self.log = place / "log"
        self.log.touch(mode=0o600)
        self.heir_ran = place / "heir-ran"
        self.news = -1
        self.deployer = -1

    def begin(self, agent, *, heir=True, cwd="/"):
        """Take the lock, write everything but the commit, and start the session."""
        self.journal.write_bytes(b"")
        self.note("begin")
        self.deployer = self.lock()
        os.mkfifo(self.run / "events", 0o600)
        self.news = os.open(self.run / "events", os.O_RDONLY | os.O_NONBLOCK)
        launch.write(str(self.run / "launch"), self.told(agent, heir=heir, cwd=cwd))
        argv = command(str(self.run / "launch"))
        self.session = self.terminal.start(NAME, owner=self.cookie, argv=argv)
        self.supervisor = self.processes.identify(self.session.pane_pid)

    def told(self, agent, *, heir, cwd):
        return launch.Launch(
            journal=str(self.journal),
            log=str(self.log),
            exit_file=str(self.run / "exit"),
            events=str(self.run / "events"),
            argv=[str(self.program(agent))],
            env={"PATH": os.environ["PATH"], "ORCHESTRATOR_COOKIE": self.cookie},
            cwd=str(cwd),
            term_s=self.patience.term_s,
            kill_s=self.patience.kill_s,
            linger_s=self.patience.linger_s,
            heir=["/bin/sh", "-c", f"echo ran >> {self.heir_ran}"] if heir else [],
            heir_env={"PATH": os.environ["PATH"]},
        )

    def program(self, agent):
        path = self.place / agent
        body = AGENTS[agent][0]
        if body is not None:
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o700)
        return path

    def note(self, kind):
        """Append one line to the journal, by hand."""
        with self.journal.open("ab") as file:
            file.write(b'{"kind":"%s","crc":"00000000"}\n' % kind.encode())

    def lock(self):
        fd = os.open(self.journal, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def let_go(self):
        os.close(self.deployer)
        self.deployer = -1

    def deploy(self, agent, **how):
        """Start, commit, let go, and return once the agent runs."""
        self.begin(agent, **how)
        self.note("commit")
        self.let_go()
        line = self.next_line()
        assert line.startswith("started "), line

    def next_line(self):
        """Return the supervisor's next news; empty if there will be none."""
        text = ""
        while not text.endswith("\n"):
            seen = self.processes.watch(None, timeout_s=LONG_S, fd=self.news)
            assert seen.news, "no news in time"
            byte = os.read(self.news, 1)
            if not byte:
                return text
            text += byte.decode()
        return text[:-1]

    def until_over(self):
        """Return when the session's own process has ended, and the terminal knows."""
        assert self.processes.watch(self.supervisor, timeout_s=LONG_S).gone
        deadline = time.monotonic() + LONG_S
        while self.terminal.look(NAME, owner=self.cookie).presence is not Presence.ABSENT:
            assert time.monotonic() < deadline

    def exit(self):
        return json.loads((self.run / "exit").read_text())

    @property
    def claim(self):
        return Claim(self.cookie, supervisor=self.supervisor, exit_file=str(self.run / "exit"))

    def end(self):
        """End the agent as an outsider does: with the lock, and the unwinding journalled."""
        if self.deployer < 0:
            self.deployer = self.lock()
        self.note("unwind")
        return self.processes.end(self.claim, self.patience)

    def close(self):
        for fd in (self.news, self.deployer):
            if fd >= 0:
                os.close(fd)


class FakeStage(Stage):
    def __init__(self, place):
        scripts = {name: script for name, (_, script) in AGENTS.items()}
        self.fake = FakeTerminal(agents=scripts, heir=lambda argv: subprocess.run(argv, check=True))
        patience = Patience(term_s=2, kill_s=2, linger_s=1)
        super().__init__(place, self.fake, self.fake.processes, patience=patience)

    def alive(self):
        return [process.name for process in self.fake.alive()]


class RealStage(Stage):
    def __init__(self, place, tmux):
        patience = Patience(term_s=0.3, kill_s=2, linger_s=0.3)
        terminal = TmuxTerminal(tmux.socket)
        super().__init__(place, terminal, LocalProcesses(), patience=patience)

    def alive(self):
        """Return the names of all processes with our cookie, by a scan of the test's own."""
        return [p.name() for p in _with_cookie(self.cookie)]

    def close(self):
        for process in _with_cookie(self.cookie):
            process.kill()
        super().close()


def _with_cookie(cookie):
    """Find the processes of one test, without a line of the library."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("ORCHESTRATOR_COOKIE") == cookie
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.tmux)])
def stage(request, short_tmp):
    if request.param == "fake":
        made = FakeStage(short_tmp)
    else:
        made = RealStage(short_tmp, request.getfixturevalue("private_tmux"))
    yield made
    made.close()


# --- the gate ---------------------------------------------------------------------------


def test_while_the_deployer_holds_the_lock_nothing_runs(stage):
    stage.begin("speaks")
    stage.note("commit")

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.3, fd=stage.news)

    assert (False, False) == (seen.news, seen.gone)
    assert Presence.OURS == stage.terminal.look(NAME, owner=stage.cookie).presence
    assert (stage.run / "launch").exists()
    assert b"" == stage.log.read_bytes()


def test_without_a_commit_the_session_leaves_by_itself(stage):
    """The deployer gave up, or died: nobody else has to clear up."""
    stage.begin("speaks")

    stage.let_go()

    stage.until_over()
    assert [] == stage.alive()
    assert b"" == stage.log.read_bytes()
    assert not (stage.run / "exit").exists()
    assert not stage.heir_ran.exists()


@pytest.mark.parametrize("after", ["unwind", "close"])
def test_a_commit_that_is_being_undone_opens_nothing(stage, after):
    stage.begin("speaks")
    stage.note("commit")
    stage.note(after)

    stage.let_go()

    stage.until_over()
    assert b"" == stage.log.read_bytes()
    assert not stage.heir_ran.exists()


def test_a_torn_commit_is_none(stage):
    stage.begin("speaks")
    with stage.journal.open("ab") as file:
        file.write(b'{"kind":"commit","crc":"00000000"}')

    stage.let_go()

    stage.until_over()
    assert b"" == stage.log.read_bytes()


def test_without_a_journal_there_is_nothing_to_wait_for(stage):
    stage.journal.unlink(missing_ok=True)
    stage.begin("runs")
    # The lock is still held, on a file that has no name any more.
    stage.terminal.end(NAME, owner=stage.cookie)

    stage.until_over()

    assert [] == stage.alive()


def test_at_its_gate_a_supervisor_is_ended_at_once(stage):
    stage.begin("speaks")

    ending = stage.end()

    stage.until_over()
    assert [] == stage.alive()
    assert () == ending.survivors
    assert not ending.forced
    assert ending.proven
    assert b"" == stage.log.read_bytes()


def test_a_commit_opens_the_gate_and_the_launch_is_gone(stage):
    """The file with the agent's environment does not outlive its one reader."""
    stage.deploy("speaks")

    assert not (stage.run / "launch").exists()
    assert Presence.OURS == stage.terminal.look(NAME, owner=stage.cookie).presence
    assert stage.alive()


# --- the witness ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "code", "signum"),
    [("exits-0", 0, None), ("exits-3", 3, None), ("dies", None, signal.SIGSEGV)],
)
def test_how_it_ended_is_witnessed(stage, agent, code, signum):
    stage.deploy(agent)

    assert "exited" == stage.next_line()

    witnessed = stage.exit()
    assert (code, signum) == (witnessed["code"], witnessed["signal"])
    assert ("exit", True, False) == (
        witnessed["cause"],
        witnessed["contained"],
        witnessed["forced"],
    )
    assert None is witnessed["error"]
    stage.until_over()
    assert [] == stage.alive()


def test_what_it_wrote_is_in_the_log(stage):
    stage.deploy("speaks")
    stage.end()

    assert b"one\ntwo\n" == stage.log.read_bytes()


def test_a_command_that_does_not_exist_is_refused(stage):
    stage.begin("missing")
    stage.note("commit")
    stage.let_go()

    assert stage.next_line().startswith("refused ")
    assert "exited" == stage.next_line()
    witnessed = stage.exit()
    assert ("refused", None, None) == (witnessed["cause"], witnessed["code"], witnessed["signal"])
    assert "No such file or directory" in witnessed["error"]
    stage.until_over()


def test_a_directory_that_does_not_exist_is_refused(stage):
    stage.begin("runs", cwd=stage.place / "nowhere")
    stage.note("commit")
    stage.let_go()

    assert stage.next_line().startswith("refused ")
    stage.until_over()
    assert "No such file or directory" in stage.exit()["error"]
    assert [] == stage.alive()


def test_a_deployer_that_does_not_listen_misses_only_news(stage):
    stage.begin("exits-3")
    os.close(stage.news)
    stage.news = -1
    stage.note("commit")
    stage.let_go()

    stage.until_over()

    assert 3 == stage.exit()["code"]


# --- the end from outside ------------------------------------------------------------------


def test_an_end_from_outside_leaves_nothing_and_proves_it(stage):
    stage.deploy("runs")

    ending = stage.end()

    assert [] == stage.alive()
    assert (True, (), False) == (ending.proven, ending.survivors, ending.forced)
    assert ("term", signal.SIGTERM) == (stage.exit()["cause"], stage.exit()["signal"])
    stage.until_over()
    assert not stage.heir_ran.exists()


def test_who_ignores_term_is_killed(stage):
    stage.deploy("stubborn")
    _settled(stage)

    ending = stage.end()

    assert [] == stage.alive()
    assert (True, ()) == (ending.proven, ending.survivors)
    assert (signal.SIGKILL, True) == (stage.exit()["signal"], stage.exit()["forced"])


def test_a_second_end_finds_nothing_to_do(stage):
    stage.deploy("runs")
    stage.end()

    again = stage.processes.end(stage.claim, stage.patience)

    assert (0, (), True) == (again.ended, again.survivors, again.proven)


def test_a_daemon_does_not_outlive_its_agent(stage):
    """The agent's own exit is its end, whatever it has left behind."""
    stage.deploy("leaves-a-daemon")

    stage.until_over()

    assert [] == stage.alive()
    assert (0, "exit", True) == (
        stage.exit()["code"],
        stage.exit()["cause"],
        stage.exit()["contained"],
    )


def test_the_end_of_the_session_is_the_end_of_its_agent(stage):
    """Somebody kills the session by hand: what runs in it goes with it."""
    stage.deploy("stubborn")

    assert Presence.OURS == stage.terminal.end(NAME, owner=stage.cookie)

    stage.until_over()
    assert [] == stage.alive()
    assert ("hangup", True) == (stage.exit()["cause"], stage.exit()["contained"])


def test_an_agent_whose_supervisor_was_killed_is_found_and_ended(stage):
    stage.deploy("runs")
    stage.processes.signal(stage.supervisor, signal.SIGKILL)
    stage.until_over()
    assert stage.alive()

    ending = stage.end()

    assert [] == stage.alive()
    assert () == ending.survivors
    assert ending.ended >= 1
    assert not (stage.run / "exit").exists()


# --- the end from inside ---------------------------------------------------------------------


def test_asked_from_inside_it_ends_after_a_while(stage):
    stage.deploy("runs")
    stage.note("request")
    assert stage.processes.signal(stage.supervisor, signal.SIGUSR1)

    stage.until_over()

    assert [] == stage.alive()
    assert ("request", signal.SIGTERM) == (stage.exit()["cause"], stage.exit()["signal"])


def test_asked_without_a_request_in_the_journal_it_goes_on(stage):
    stage.deploy("runs")
    assert stage.processes.signal(stage.supervisor, signal.SIGUSR1)

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.5)

    assert not seen.gone
    assert stage.alive()


def test_a_hangup_with_its_terminal_alive_is_somebodys_joke(stage):
    stage.deploy("runs")
    assert stage.processes.signal(stage.supervisor, signal.SIGHUP)

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.3)

    assert not seen.gone


# --- the heir ----------------------------------------------------------------------------


def test_at_the_agents_own_end_the_supervisor_becomes_the_unwinder(stage):
    stage.deploy("exits-3")

    stage.until_over()

    assert "ran\n" == stage.heir_ran.read_text()


def test_while_somebody_unwinds_there_is_no_heir(stage):
    stage.deploy("exits-3")
    stage.note("unwind")

    stage.until_over()

    assert not stage.heir_ran.exists()


def test_without_an_heir_to_become_the_supervisor_just_leaves(stage):
    stage.deploy("exits-3", heir=False)

    stage.until_over()

    assert not stage.heir_ran.exists()


# --- who is who --------------------------------------------------------------------------


def test_a_recycled_pid_is_a_stranger(stage):
    """The same pid with another start is another process: not alive, never signalled."""
    stage.deploy("runs")
    stranger = Identity(
        stage.supervisor.boot_id, stage.supervisor.pid, stage.supervisor.started + 1
    )

    assert not stage.processes.is_alive(stranger)
    assert not stage.processes.signal(stranger, signal.SIGKILL)
    assert stage.processes.is_alive(stage.supervisor)


def test_a_process_of_another_boot_is_dead(stage):
    stage.deploy("runs")
    before = Identity("another-boot", stage.supervisor.pid, stage.supervisor.started)

    assert not stage.processes.is_alive(before)
    assert not stage.processes.signal(before, signal.SIGKILL)


def test_the_orchestrator_is_alive_and_outside(stage):
    stage.deploy("runs")
    me = stage.processes.identify(os.getpid())

    assert me is not None
    assert stage.processes.is_alive(me)
    assert not stage.processes.is_inside(stage.claim)


def test_nobody_has_a_pid_that_nobody_has(stage):
    assert None is stage.processes.identify(2**22 + 1)


def test_a_watch_that_sees_nothing_says_so(stage):
    stage.deploy("runs")

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.05, fd=stage.news)

    assert (False, False) == (seen.news, seen.gone)


def _settled(stage):
    """Return when a real agent has had the time to set its traps: it has become sleep."""
    if isinstance(stage, FakeStage):
        return
    deadline = time.monotonic() + LONG_S
    while "sleep" not in stage.alive():
        assert time.monotonic() < deadline
