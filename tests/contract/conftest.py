"""
One agent on a stage: its files by hand, and the world it is started in, real or fake.

Nothing of the library takes part but the two ports and what keeps them.
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

from orchestrator_core.supervisor import launch
from orchestrator_core.system import durable
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.processes import LocalProcesses
from orchestrator_core.system.processes.protocol import GracePeriods, OwnershipSelector
from orchestrator_core.system.tmux import TmuxTerminal
from orchestrator_core.testing import Dies, Exits, FakeTerminal, Refuses, Runs

LONG_S = 20

#: Each agent twice: as a program, and as the fake's script of it.
AGENTS = {
    "runs": ("exec sleep 1000", Runs()),
    "speaks": ("echo one; echo two >&2; exec sleep 1000", Runs(writes=b"one\ntwo\n")),
    "exits-0": ("exit 0", Exits(0)),
    "exits-3": ("exit 3", Exits(3, after_s=0.1)),
    "dies": ("kill -SEGV $$", Dies(signal.SIGSEGV)),
    "prints": ("echo one; echo two >&2", Exits(0, writes=b"one\ntwo\n")),
    "stubborn": (
        "trap '' TERM HUP; echo ready > {ready}; exec sleep 1000",
        Runs(ignores_term=True),
    ),
    "leaves-a-daemon": (
        "(trap '' TERM HUP; setsid sleep 1000 & ) ; exit 0",
        Exits(0, daemon=True),
    ),
    "obeys": ("read word < {ready}; exit 3", Runs()),
    "missing": (None, Refuses()),
}


class Stage:
    """The files of one agent, and the world that it is started in."""

    def __init__(self, place, terminal, processes, *, patience):
        self.place = place
        self.terminal = terminal
        self.processes = processes
        self.patience = patience
        self.name = "agent_agent-1"
        self.cookie = f"root.{uuid.uuid4()}"  # Unique: it identifies the processes of one test.
        self.run = place / "run"
        self.run.mkdir()
        self.journal = place / "agent-1.jsonl"
        self.log = place / "log"
        self.log.touch(mode=0o600)
        self.unwinder_ran = place / "unwinder-ran"
        self.news = -1
        self.deployer = -1

    def begin(self, agent, *, unwinder=True, cwd="/"):
        """Take the lock, write everything but the commit, and start the session."""
        self.journal.write_bytes(b"")
        self.note("begin")
        self.deployer = self.lock()
        os.mkfifo(self.run / "events", 0o600)
        self.news = os.open(self.run / "events", os.O_RDONLY | os.O_NONBLOCK)
        config = self.launch(agent, unwinder=unwinder, cwd=cwd)
        durable.create(self.run / "launch", launch.encode(config), durable=False)
        argv = launch.command(str(self.run / "launch"))
        self.session = self.terminal.start(self.name, owner=self.cookie, argv=argv)
        self.supervisor = self.processes.identify(self.session.pane_pid)

    def launch(self, agent, *, unwinder, cwd):
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
            unwinder_argv=["/bin/sh", "-c", f"echo ran >> {self.unwinder_ran}"] if unwinder else [],
            unwinder_env={"PATH": os.environ["PATH"]},
        )

    def program(self, agent):
        path = self.place / agent
        body = AGENTS[agent][0]
        if body is not None:
            path.write_text("#!/bin/sh\n" + body.format(ready=self.place / "ready") + "\n")
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
            assert seen.readable, "no news in time"
            byte = os.read(self.news, 1)
            if not byte:
                return text
            text += byte.decode()
        return text[:-1]

    def until_over(self):
        """Return when the session's own process has ended, and the terminal knows."""
        assert self.processes.watch(self.supervisor, timeout_s=LONG_S).exited
        deadline = time.monotonic() + LONG_S
        while self.terminal.inspect(self.name, owner=self.cookie).presence is not Presence.ABSENT:
            assert time.monotonic() < deadline

    def exit(self):
        return json.loads((self.run / "exit").read_text())

    @property
    def selector(self):
        return OwnershipSelector(
            self.cookie, supervisor=self.supervisor, exit_file=str(self.run / "exit")
        )

    def end(self):
        """End the agent as an outsider does: with the lock, and the unwinding journalled."""
        if self.deployer < 0:
            self.deployer = self.lock()
        self.note("unwind")
        return self.processes.terminate_all(self.selector, self.patience)

    def close(self):
        for fd in (self.news, self.deployer):
            if fd >= 0:
                os.close(fd)


class FakeStage(Stage):
    def __init__(self, place):
        scripts = {name: script for name, (_, script) in AGENTS.items()}
        self.fake = FakeTerminal(
            agents=scripts, unwinder=lambda argv: subprocess.run(argv, check=True)
        )
        patience = GracePeriods(term_s=2, kill_s=2, linger_s=1)
        super().__init__(place, self.fake, self.fake.processes, patience=patience)

    def alive(self):
        return [process.name for process in self.fake.alive()]

    def wait_until_ready(self):
        """A script needs no time to set its traps."""

    def let_exit(self):
        """Make the obedient agent exit with 3."""
        self.fake.exit(self.name, 3)


class RealStage(Stage):
    def __init__(self, place, tmux):
        patience = GracePeriods(term_s=0.3, kill_s=2, linger_s=0.3)
        terminal = TmuxTerminal(tmux.socket)
        super().__init__(place, terminal, LocalProcesses(), patience=patience)
        os.mkfifo(place / "ready", 0o600)

    def wait_until_ready(self):
        """Wait until the agent has set its traps."""
        (self.place / "ready").read_text()

    def let_exit(self):
        """Make the obedient agent exit with 3."""
        (self.place / "ready").write_text("go\n")

    def alive(self):
        """Return the names of all processes with our cookie, by a scan of the test's own."""
        return [p.name() for p in _with_cookie(self.cookie)]

    def close(self):
        for process in _with_cookie(self.cookie):
            process.kill()
        super().close()


def _with_cookie(cookie):
    """Find the processes of one test, without the library."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            owned = process.environ().get("ORCHESTRATOR_COOKIE") == cookie
            if owned and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def fake_stage(short_tmp):
    """A stage in the fake world, for tests of the fake only."""
    made = FakeStage(short_tmp)
    yield made
    made.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.tmux)])
def stage(request, short_tmp):
    if request.param == "fake":
        made = FakeStage(short_tmp)
    else:
        made = RealStage(short_tmp, request.getfixturevalue("private_tmux"))
    yield made
    made.close()
