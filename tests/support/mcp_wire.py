"""
An MCP client without the SDK: one JSON message a line.

The client checks every byte of the server's standard output, and kills the server's
process group at a chosen point. The SDK's client can do neither.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from support.world import wait_for_deaths

TOP = Path(__file__).resolve().parents[2]
SERVER = [sys.executable, "-m", "orchestrator_core"]
TMUX = shutil.which("tmux") or "tmux"
LONG_S = 30

#: Signals and waits before it creates a session; passes all else to tmux.
_HELD_TMUX = f"""#!/bin/sh
case " $* " in *" new-session "*)
    echo here > {{here}}
    read go < {{go}} ;;
esac
exec {TMUX} "$@"
"""


class HeldTmux:
    """A tmux that stops in the middle of every deployment, until the test releases it."""

    def __init__(self, scene):
        self._here, self._go = scene.place / "here", scene.place / "go"
        os.mkfifo(self._here)
        os.mkfifo(self._go)
        (scene.place / "bin").mkdir()
        scene.program("bin/tmux", _HELD_TMUX.format(here=self._here, go=self._go))
        self.path = f"{scene.place / 'bin'}:{os.environ['PATH']}"

    def until_held(self):
        """Return when a deployment is at its middle."""
        fd = os.open(self._here, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert select.select([fd], [], [], LONG_S)[0], "no session is made"
            assert os.read(fd, 100)
        finally:
            os.close(fd)

    def let_go(self):
        """Let it create its session."""
        self._go.write_text("go\n")

    @contextlib.contextmanager
    def no_more(self):
        """Release it, and every later one, within the block."""
        fd = os.open(self._go, os.O_RDWR)  # A FIFO keeps its data while it is open.
        os.write(fd, b"go\n" * 20)
        try:
            yield
        finally:
            os.close(fd)


class Wire:
    """A server and the two ends of its streams."""

    def __init__(self, root, *arguments, path=None, options=()):
        """Start a server with only HOME, PATH and the place of the user's configuration."""
        self.process = subprocess.Popen(
            [*SERVER, "--root", str(root), *options, "mcp", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=TOP,  # The package is there, and there is no PYTHONPATH.
            env={
                "HOME": "/",
                "PATH": path or os.environ["PATH"],
                "XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"],
            },
            start_new_session=True,
        )
        self._numbers = iter(range(1, 1000))
        self._buffer = b""
        self.lines = []  #: All that it has written to its standard output.

    def connect(self):
        """Do the handshake of the protocol of 2025."""
        client = {"name": "by hand", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        answer = self.answer(self.ask("initialize", **params))
        self._write({"method": "notifications/initialized"})
        return answer["result"]

    def call(self, tool, **arguments):
        """Call a tool, and return what it returns."""
        return self.answer(self.begin(tool, **arguments))["result"]["structuredContent"]

    def begin(self, tool, **arguments):
        """Call a tool; return the number of the call."""
        return self.ask("tools/call", name=tool, arguments=arguments)

    def ask(self, method, **params):
        number = next(self._numbers)
        self._write({"id": number, "method": method, "params": params})
        return number

    def cancel(self, number):
        self._write({"method": "notifications/cancelled", "params": {"requestId": number}})

    def _write(self, message):
        line = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def send(self, data):
        """Write bytes as they are, and a newline."""
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def answer(self, number):
        """Return the answer to a request; other messages stay in *lines*."""
        deadline = time.monotonic() + LONG_S
        while True:
            message = self._read(deadline)
            assert message is not None, "the server has gone"
            if "method" not in message and message.get("id") == number:
                return message

    def _read(self, deadline):
        while b"\n" not in self._buffer:
            left_s = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left_s)[0], "no answer"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                assert not self._buffer, f"a torn line: {self._buffer!r}"
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.lines.append(json.loads(line))  # Anything but JSON fails here.
        return self.lines[-1]

    def until_read(self):
        """Wait until it has read all that was written to it."""
        deadline = time.monotonic() + LONG_S
        while any(fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4))):
            assert time.monotonic() < deadline, "it reads no more"
            select.select([], [], [], 0.005)

    def hang_up(self):
        """Close its standard input."""
        self.process.stdin.close()

    def until_over(self):
        """Read until the server ends, and return its exit status."""
        deadline = time.monotonic() + LONG_S
        while self._read(deadline) is not None:
            pass
        return self.process.wait(LONG_S)

    def kill_group(self):
        """Kill the server's process group with -9, and return when the server is dead."""
        os.killpg(self.process.pid, signal.SIGKILL)
        wait_for_deaths([self.process.pid], timeout_s=LONG_S)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                continue
