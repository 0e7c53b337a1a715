"""A supervisor on a stage: its files written by hand, its agent's processes on a roll."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
import uuid
from pathlib import Path

import pytest

from orchestrator_core.supervisor import launch
from orchestrator_core.supervisor.cgroup import Cgroup
from orchestrator_core.system import durable
from orchestrator_core.system.processes import GracePeriods, LocalProcesses, OwnershipSelector

LONG_S = 20


class Roll:
    """
    A list of living processes that the kernel keeps.

    Every process of interest opens a FIFO of its name for writing, as ``9>roll/NAME``,
    and its children inherit it. After the death of the last writer, even of a
    hidden one, the FIFO is at its end.
    """

    def __init__(self, place):
        self.place = place
        self.place.mkdir()
        self.readers = {}

    def expect(self, name):
        """Return the path under which the process called *name* signs in."""
        os.mkfifo(self.place / name, 0o600)
        self.readers[name] = os.open(self.place / name, os.O_RDONLY | os.O_NONBLOCK)
        return self.place / name

    def until_ready(self):
        """Wait until each process has written a line, its sign that it is ready."""
        for name, reader in self.readers.items():
            assert select.select([reader], [], [], LONG_S)[0], f"{name} has not come"
            assert os.read(reader, 5), f"{name} has gone already"

    def alive(self):
        """Return the names that have at least one living process."""
        return sorted(name for name, reader in self.readers.items() if not self._is_over(reader))

    def until_over(self):
        """Wait until all processes have ended."""
        deadline = time.monotonic() + LONG_S
        for name, reader in self.readers.items():
            while not self._is_over(reader):
                assert select.select([reader], [], [], deadline - time.monotonic())[0], name

    @staticmethod
    def _is_over(reader):
        with contextlib.suppress(BlockingIOError):
            while (data := os.read(reader, 65536)) and data:
                pass
            return True
        return False

    def close(self):
        """Kill all processes that hold one of the FIFOs as their descriptor 9."""
        deadline = time.monotonic() + LONG_S
        while self.alive() and time.monotonic() < deadline:
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if str((entry / "fd" / "9").readlink()).startswith(f"{self.place}/"):
                        os.kill(int(entry.name), signal.SIGKILL)
        for reader in self.readers.values():
            os.close(reader)


class Stage:
    """A supervisor as a child of the test, in its own session and, on request, its own terminal."""

    def __init__(self, place):
        self.place = place
        self.run = place / "run"
        self.run.mkdir()
        self.work = place / "work"
        self.work.mkdir()
        self.journal = place / "agent.jsonl"
        self.log = place / "log"
        self.log.touch(mode=0o600)
        self.unwinder_ran = place / "unwinder-ran"
        self.cookie = f"test-{uuid.uuid4()}"
        self.roll = Roll(place / "roll")
        self.patience = GracePeriods(term_s=0.4, kill_s=3, linger_s=0.4)
        self.cgroup = None
        self.child = None
        self.terminal = None
        self.news = None
        self.lock = None

    # --- before the gate

    def begin(self, *argv, terminal=False, unwinder_argv=None, inherited=(), **changes):
        """Take the lock, write all that a deployer writes but the commit, start the supervisor."""
        self.journal.write_text('{"kind":"begin","crc":"00000000"}\n')
        self.take_lock()
        os.mkfifo(self.run / "events", 0o600)
        self.news = os.open(self.run / "events", os.O_RDONLY | os.O_NONBLOCK)
        env = {"PATH": os.environ["PATH"], "ORCHESTRATOR_COOKIE": self.cookie}
        settings = {
            "journal": str(self.journal),
            "log": str(self.log),
            "exit_file": str(self.run / "exit"),
            "events": str(self.run / "events"),
            "argv": [str(arg) for arg in argv],
            "env": env | changes.pop("env", {}),
            "cwd": str(self.work),
            "cgroup": self.cgroup,
            "term_s": self.patience.term_s,
            "kill_s": self.patience.kill_s,
            "linger_s": self.patience.linger_s,
            "unwinder_argv": unwinder_argv or ["/bin/sh", "-c", f"echo ran > {self.unwinder_ran}"],
            "unwinder_env": {"PATH": os.environ["PATH"]},
        }
        config = launch.Launch(**settings | changes)
        durable.create(self.run / "launch", launch.encode(config), durable=False)
        self._start(terminal=terminal, inherited=inherited)

    def _start(self, *, terminal=False, inherited=()):
        streams = {}
        slave = None
        if terminal:
            self.terminal, slave = pty.openpty()
            streams = {"stdin": slave, "stdout": slave, "stderr": slave}
            streams["preexec_fn"] = _take_terminal
        else:
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.child = subprocess.Popen(
            launch.command(str(self.run / "launch")),
            start_new_session=True,
            cwd="/",
            env={**os.environ, "ORCHESTRATOR_COOKIE": self.cookie},
            pass_fds=inherited,
            **streams,
        )
        if slave is not None:
            os.close(slave)
        self.supervisor = self.processes().identify(self.child.pid)

    def take_lock(self):
        self.lock = os.open(self.journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def let_go(self):
        os.close(self.lock)
        self.lock = None

    def note(self, kind):
        """Append a line to the journal, by hand."""
        with self.journal.open("a") as file:
            file.write(f'{{"kind":"{kind}","crc":"00000000"}}\n')

    # --- the agent's life

    def deploy(self, *argv, **how):
        """Start, commit, let go; return the agent's pid when it runs."""
        self.begin(*argv, **how)
        self.note("commit")
        self.let_go()
        word, _, pid = self.next_line().partition(" ")
        assert word == "started", (word, pid)
        return int(pid)

    def sh(self, script, name="agent", **how):
        """Deploy a shell script that is on the roll, and wait until the script has started."""
        return self.deploy("sh", "-c", f"exec 9>{self.roll.expect(name)}; {script}", **how)

    def next_line(self):
        """Return the supervisor's next news; empty if there will be none."""
        line = b""
        while not line.endswith(b"\n"):
            assert select.select([self.news], [], [], LONG_S)[0], "no news in time"
            byte = os.read(self.news, 1)
            if not byte:
                break
            line += byte
        return line.decode().rstrip("\n")

    def signal(self, signum):
        os.kill(self.child.pid, signum)

    def until_over(self):
        """Return the exit status of the supervisor, or of the unwinder, after its end."""
        return self.child.wait(LONG_S)

    def is_running(self):
        return self.child.poll() is None

    def exit(self):
        return json.loads((self.run / "exit").read_text())

    # --- its end

    def processes(self, containment="auto"):
        return LocalProcesses(containment=containment)

    @property
    def selector(self):
        return OwnershipSelector(
            cookie=self.cookie,
            supervisor=self.supervisor,
            cgroup=self.cgroup,
            exit_file=str(self.run / "exit"),
        )

    def end(self, containment="auto"):
        """End the agent as an outsider does: with the lock, and the unwinding journalled."""
        if self.lock is None:
            self.take_lock()
        self.note("unwind")
        return self.processes(containment).terminate_all(self.selector, self.patience)

    def kill_supervisor(self):
        """Kill it as the kernel's out-of-memory killer would."""
        self.child.kill()
        self.child.wait(LONG_S)

    def close(self):
        if self.child is not None and self.is_running():
            self.kill_supervisor()
        if "hopper" in self.roll.alive():  # The hopper forks faster than a scan, but has one group.
            os.killpg(int((self.place / "of-hopper" / "group").read_text()), signal.SIGKILL)
        self.roll.close()
        self._kill_agent()
        if self.cgroup is not None:
            Cgroup(self.cgroup).remove()
        for fd in (self.terminal, self.news, self.lock):
            if fd is not None:
                os.close(fd)

    def _kill_agent(self):
        """Kill all processes with this agent's cookie: not every agent is on the roll."""
        mark = f"ORCHESTRATOR_COOKIE={self.cookie}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def stage(short_tmp):
    made = Stage(short_tmp)
    yield made
    made.close()
