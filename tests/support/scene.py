"""A temporary root for each test, with its orchestrators and a cleanup."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support.actors import Actors
from support.world import World, wait_for_deaths

_TAIL = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0, "cwd": "/"}
SLEEP = ["sleep", "1000"]


class Scene:
    """One root in a temporary directory with a short path, checked by :class:`World`."""

    def __init__(self, place):
        self.place = place
        self.root = place / "ws"
        self.work = place / "work"
        self.work.mkdir()
        self.world = World(place, self.root)

    def orchestrator(self, **how):
        """Return an orchestrator with short grace periods."""
        from support import acts  # noqa: PLC0415 - the look at the world needs none of it

        return acts.opened(self.root, **how)

    def spec(self, *command, **how):
        """Return the spec of an agent that works in a directory of the test."""
        from orchestrator_core import AgentSpec  # noqa: PLC0415 - as above

        how = {"type": "a", "prompt": "do it", "cwd": str(self.work), **how}
        return AgentSpec(command=command or SLEEP, **how)

    def program(self, name, text):
        """Write an executable script; return its path."""
        path = self.place / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def follow(self, *paths, until, timeout_s=20):
        """Wait until a growing file, which may be moved, contains *until*; return its content."""
        tail = subprocess.Popen(["tail", "-q", "-c", "+0", "-F", "-s", "0.05", *paths], **_TAIL)
        deadline, seen = time.monotonic() + timeout_s, b""
        try:
            while until not in seen:
                left_s = max(0.0, deadline - time.monotonic())
                ready, _, _ = select.select([tail.stdout], [], [], left_s)
                assert ready, f"{paths[0]} has no {until!r}, but {seen[-500:]!r}"
                seen += os.read(tail.stdout.fileno(), 65536)
        finally:
            tail.kill()
            tail.wait()
            tail.stdout.close()
        return seen

    def gate(self, name):
        """Make a FIFO in the agents' directory, at which an agent waits until :meth:`let_go`."""
        os.mkfifo(self.work / name)
        return str(self.work / name)

    def let_go(self, name):
        """Let the agent that waits at a gate go on."""
        (self.work / name).write_text("go\n")

    @contextlib.contextmanager
    def until_closed(self, fifo, timeout_s=20):
        """Run the block, then wait until the last writer has closed a FIFO."""
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield
            deadline = time.monotonic() + timeout_s
            while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not os.read(reader, 4096):
                    return
            raise AssertionError(f"{fifo} is still open for writing")
        finally:
            os.close(reader)

    def kill(self, pid):
        """Kill a process with -9, and return when it is dead."""
        os.kill(pid, signal.SIGKILL)
        wait_for_deaths([pid], timeout_s=20)


@contextlib.contextmanager
def a_scene():
    """Make a scene; at the end, end every process that is left, by its pid."""
    made = Scene(Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp")))
    try:
        yield made
    finally:
        if (made.root / "root.json").exists():
            made.world.end_everything()
        shutil.rmtree(made.place, ignore_errors=True)


@pytest.fixture
def scene():
    """A scene for one test."""
    with a_scene() as made:
        yield made


@pytest.fixture(scope="session")
def actors():
    """Real processes that act on a root, and can be killed."""
    made = Actors()
    yield made
    made.close()
