"""Fixtures for all tests: private tmux servers in short temporary directories."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest
from support.needs import missing
from support.scene import actors, scene  # noqa: F401 - fixtures


def pytest_addoption(parser):
    """Add the options for all crash points, which takes minutes, and for complete runs."""
    parser.addoption("--all-points", action="store_true", help="crash at every point, not a sample")
    parser.addoption(
        "--complete",
        action="store_true",
        help="fail a test whose needs this run cannot meet, instead of counting it",
    )


def pytest_configure(config):
    """Register the marker, and accept interrupts also in the background of a shell."""
    config.addinivalue_line(
        "markers", "needs(what): root, cgroup and so on, which not every user has"
    )
    # The user's own configuration and approvals are a directory of this run.
    own = tempfile.mkdtemp(prefix="oc-config-", dir="/tmp")
    os.environ["XDG_CONFIG_HOME"] = own
    config.add_cleanup(lambda: shutil.rmtree(own, ignore_errors=True))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """Skip a test that this user cannot run; fail it in a complete run."""
    for mark in item.iter_markers("needs"):
        lacking = [missing(what) for what in mark.args if missing(what)]
        # Where Python is installed is no matter of this user's rights.
        is_complete = item.config.getoption("--complete") and "ordinary user" not in mark.args
        if lacking and is_complete:
            pytest.fail(f"needs {' and '.join(lacking)}", pytrace=False)
        if lacking:
            pytest.skip(f"needs {' and '.join(lacking)}")


def pytest_terminal_summary(terminalreporter):
    """Report for each need, in one line, how many tests were skipped without it."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, number in sorted(reasons.items()):
        terminalreporter.write_line(f"{number} not run: {reason.removeprefix('Skipped: ')}")


class PrivateTmux:
    """A tmux server on a private socket, used without any code of the library."""

    def __init__(self, socket):
        self.socket = socket
        self.binary = shutil.which("tmux") or "tmux"

    def ask(self, *command, timeout_s=10):
        """Return the server's reply to one command."""
        return self._asked(*command, timeout_s=timeout_s).stdout.strip()

    def _asked(self, *command, timeout_s=10):
        return subprocess.run(
            [self.binary, "-u", "-N", "-f", "/dev/null", "-S", str(self.socket), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def begin(self):
        """Start the server, if it does not run."""
        private = ["-f", "/dev/null", "-S", str(self.socket)]
        stay = ["start-server", ";", "set-option", "-s", "exit-empty", "off"]
        subprocess.run([self.binary, *private, *stay], stdin=subprocess.DEVNULL, check=True)

    @property
    def pid(self):
        """The server's pid; None if no server runs."""
        asked = self._asked("display-message", "-p", "#{pid}")
        if asked.stdout.strip():
            return int(asked.stdout)
        none = ("no server running", "error connecting", "server exited")
        assert any(text in asked.stderr for text in none), asked
        return None

    def end(self):
        """Kill the server and the programs of its panes, each by its pid."""
        server = self.pid
        panes = self.ask("list-panes", "-a", "-F", "#{pane_pid}").split()
        for pid in [*map(int, panes), *([server] if server else [])]:
            kill_and_wait(pid)


def kill_and_wait(pid, signum=signal.SIGKILL, timeout_s=10):
    """Signal one process, and wait until it is dead."""
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(signum)
            psutil.Process(pid).wait(timeout_s)
        return
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signum)
            assert select.select([handle], [], [], timeout_s)[0], f"{pid} did not end"
        finally:
            os.close(handle)


@pytest.fixture
def short_tmp():
    """A directory with a path short enough for a socket; pytest's own paths are too long."""
    place = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def private_tmux(short_tmp):
    """A private tmux server, killed with all its sessions after the test."""
    tmux = PrivateTmux(short_tmp / "tmux.sock")
    yield tmux
    tmux.end()


@pytest.fixture
def killed():
    """A function that kills one process by its pid and waits until it is dead."""
    return kill_and_wait


@pytest.fixture(autouse=True)
def _outside_of_tmux(monkeypatch):
    """Hide the user's own tmux server from tests that run inside it."""
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.delenv("TMUX_PANE", raising=False)
