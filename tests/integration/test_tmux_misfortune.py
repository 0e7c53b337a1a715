"""Failures of a tmux server, a socket, a binary or a configuration, and their errors."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from orchestrator_core.exceptions import (
    CouldNotAsk,
    InvalidInput,
    TerminalError,
    TerminalTimeout,
    TerminalUnavailable,
)
from orchestrator_core.system.paths import SOCKET_PATH_MAX
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.terminal import SessionState
from orchestrator_core.system.tmux import TmuxTerminal

pytestmark = pytest.mark.tmux

RUNS = ["sleep", "1000"]


@pytest.fixture
def terminal(private_tmux):
    return TmuxTerminal(private_tmux.socket)


# --- the server and its socket ------------------------------------------------------------------


def test_a_stopped_server_costs_each_call_its_timeout_and_no_more(private_tmux):
    terminal = TmuxTerminal(private_tmux.socket, timeout_s=0.2)
    pid = terminal.start("agent_1", owner="c1", argv=RUNS).server_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        took = [
            _seconds(lambda: terminal.start("agent_2", owner="c2", argv=RUNS)),
            _seconds(lambda: terminal.kill("agent_1", owner="c1")),
            _seconds(terminal.sessions),
        ]
        assert Presence.UNKNOWN == terminal.inspect("agent_1", owner="c1").presence
    finally:
        os.kill(pid, signal.SIGCONT)

    assert all(0.2 <= seconds < 2 for seconds in took), took


def test_a_timeout_names_the_server_and_a_remedy(private_tmux):
    terminal = TmuxTerminal(private_tmux.socket, timeout_s=0.1)
    pid = terminal.start("agent_1", owner="c1", argv=RUNS).server_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TerminalTimeout, match=r"did not answer within 0\.1 s") as timeout:
            terminal.sessions()
    finally:
        os.kill(pid, signal.SIGCONT)

    assert str(private_tmux.socket) in str(timeout.value)
    assert "pgrep" in timeout.value.hint


def test_a_stale_socket_is_no_server_and_blocks_no_start(terminal, private_tmux, killed):
    first = terminal.start("agent_1", owner="c1", argv=RUNS)
    killed(first.server_pid)
    assert private_tmux.socket.is_socket()

    assert () == terminal.sessions()
    second = terminal.start("agent_1", owner="c2", argv=RUNS)
    assert (second,) == terminal.sessions()


def test_a_socket_that_was_removed_is_no_server(terminal, private_tmux, killed):
    """The server lives on without its socket; its sessions are ignored, and a new one starts."""
    lost = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.socket.unlink()
    try:
        assert SessionState(Presence.ABSENT) == terminal.inspect("agent_1", owner="c1")
        found = terminal.start("agent_1", owner="c1", argv=RUNS)
        assert lost.server_pid != found.server_pid
    finally:
        killed(lost.server_pid)
        killed(lost.pane_pid)


def test_a_file_at_the_socket_path_is_not_replaced(terminal, private_tmux):
    """tmux alone would remove the file."""
    private_tmux.socket.write_text("precious")

    with pytest.raises(TerminalError, match="is not a socket of this user") as refused:
        terminal.start("agent_1", owner="c1", argv=RUNS)

    assert "precious" == private_tmux.socket.read_text()
    assert str(private_tmux.socket) in refused.value.hint
    with pytest.raises(CouldNotAsk, match="is not a socket of this user"):
        terminal.sessions()


def test_a_socket_of_another_user_is_refused(terminal, monkeypatch):
    """A process of another user there would learn of the agents and could answer anything."""
    terminal.start("agent_0", owner="c0", argv=RUNS)
    uid = os.geteuid()
    with monkeypatch.context() as another:
        another.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(TerminalError, match="user"):
            terminal.start("agent_1", owner="c1", argv=RUNS)

    assert ["agent_0"] == [session.name for session in terminal.sessions()]


def test_a_symlink_at_the_socket_path_is_refused(terminal, private_tmux):
    private_tmux.socket.symlink_to("/tmp/missing-file-of-this-test")

    with pytest.raises(TerminalError, match="is not a socket of this user"):
        terminal.start("agent_1", owner="c1", argv=RUNS)


@pytest.mark.parametrize("place", ["missing", "file"])
def test_an_impossible_socket_path_is_named(short_tmp, place):
    """With tmux's own words, which differ from version to version."""
    (short_tmp / "file").touch()
    terminal = TmuxTerminal(short_tmp / place / "tmux.sock")

    with pytest.raises(TerminalError, match=rf"/{place}/tmux\.sock\) did not start .*: .+"):
        terminal.start("agent_1", owner="c1", argv=RUNS)


def test_a_listener_other_than_tmux_is_an_error_and_not_absent(private_tmux):
    """Another program listens at the socket, so the state is unknown."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(private_tmux.socket))
        listener.listen()
        terminal = TmuxTerminal(private_tmux.socket, timeout_s=0.2)

        assert Presence.UNKNOWN == terminal.inspect("agent_1", owner="c1").presence
        with pytest.raises(TerminalError):
            terminal.sessions()
    private_tmux.socket.unlink()


def test_a_socket_path_that_is_too_long_is_refused_at_once(short_tmp):
    with pytest.raises(InvalidInput, match=rf"longer than {SOCKET_PATH_MAX} bytes"):
        TmuxTerminal(short_tmp / ("x" * 100))


# --- which tmux ----------------------------------------------------------------------------


def test_the_error_for_a_missing_tmux_has_the_command_that_installs_it(monkeypatch, short_tmp):
    monkeypatch.setenv("PATH", str(short_tmp))
    terminal = TmuxTerminal(short_tmp / "tmux.sock")

    with pytest.raises(TerminalUnavailable, match="there is no tmux") as unavailable:
        terminal.check()

    assert "install tmux" in unavailable.value.hint
    assert Presence.UNKNOWN == terminal.inspect("agent_1", owner="c1").presence


@pytest.mark.parametrize("named", ["missing", "plain", "directory"])
def test_a_tmux_that_cannot_be_run_is_named(short_tmp, named):
    (short_tmp / "plain").touch(0o600)
    (short_tmp / "directory").mkdir()
    terminal = TmuxTerminal(short_tmp / "tmux.sock", tmux_bin=short_tmp / named)

    with pytest.raises(TerminalUnavailable, match=named):
        terminal.check()
    with pytest.raises(TerminalUnavailable, match=named):
        terminal.start("agent_1", owner="c1", argv=RUNS)


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("tmux 1.8", False),
        ("tmux 3.1c", False),
        ("tmux 3.2", True),
        ("tmux 3.3a", True),
        ("tmux 10.0", True),
        ("tmux next-3.6", True),
        ("tmux master", True),
        ("bash 5.2", False),
        ("", False),
    ],
)
def test_a_tmux_must_be_new_enough(short_tmp, version, good):
    terminal = TmuxTerminal(short_tmp / "tmux.sock", tmux_bin=_pretender(short_tmp, version))

    if good:
        assert version == terminal.check()
    else:
        with pytest.raises(TerminalUnavailable, match=r"3\.2 or newer is needed"):
            terminal.check()


def test_any_call_reports_an_old_tmux(short_tmp):
    """The error names the version, not the option that an old tmux refuses."""
    terminal = TmuxTerminal(short_tmp / "tmux.sock", tmux_bin=_pretender(short_tmp, "tmux 3.0a"))

    with pytest.raises(TerminalUnavailable, match=r"3\.0a.*3\.2 or newer"):
        terminal.start("agent_1", owner="c1", argv=RUNS)
    assert "3.2 or newer" in terminal.inspect("agent_1", owner="c1").why


def test_a_command_runs_again_after_its_server_exited(short_tmp, private_tmux):
    """tmux reports "server exited unexpectedly"; the next run gets the true answer."""
    once = short_tmp / "once"
    binary = short_tmp / "tmux"
    binary.write_text(
        f"#!/bin/sh\nif mkdir {once} 2>/dev/null; then\n"
        "  echo 'server exited unexpectedly' >&2; exit 1\n"
        f'fi\nexec {private_tmux.binary} "$@"\n'
    )
    binary.chmod(0o700)

    session = TmuxTerminal(private_tmux.socket, tmux_bin=binary).start(
        "agent_1", owner="c1", argv=RUNS
    )

    assert "agent_1" == session.name


# --- the user's own server ---------------------------------------------------------------------


@pytest.fixture
def default(short_tmp, private_tmux, monkeypatch):
    """A user's default server with a configuration, in a directory of the test."""
    monkeypatch.setenv("TMUX_TMPDIR", str(short_tmp))
    monkeypatch.setenv("HOME", str(short_tmp))
    (short_tmp / ".tmux.conf").write_text(
        "set -g history-limit 7777\nset -g remain-on-exit on\nset -g destroy-unattached off\n"
    )
    private_tmux.socket = short_tmp / f"tmux-{os.geteuid()}" / "default"
    return TmuxTerminal()


def test_sessions_start_and_end_on_the_default_server(default):
    session = default.start("agent_1", owner="c1", argv=RUNS)

    assert (session,) == default.sessions()
    assert Presence.OURS == default.kill("agent_1", owner="c1")
    assert () == default.sessions()


def test_the_default_server_keeps_its_users_options(default, private_tmux):
    default.start("agent_1", owner="c1", argv=RUNS)

    assert "7777" == private_tmux.ask("show-options", "-gv", "history-limit")
    assert "on" == private_tmux.ask("show-options", "-gwv", "remain-on-exit")
    assert "on" == private_tmux.ask("show-options", "-sv", "exit-empty")
    assert "" == private_tmux.ask("show-options", "-gv", "@orchestrator_owner")


def test_a_configuration_that_keeps_dead_panes_does_not_keep_an_agents(default):
    """An agent's session ends with its program whatever the user has configured."""
    session = default.start("agent_1", owner="c1", argv=RUNS)

    os.kill(session.pane_pid, signal.SIGKILL)

    assert _soon(lambda: Presence.ABSENT == default.inspect("agent_1", owner="c1").presence)


# --- how ---


def _pretender(place, version):
    """Create a program that prints a tmux version and refuses -N, as tmux did before 3.2."""
    binary = place / "pretender"
    binary.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && {{ echo "{version}"; exit; }}\n'
        "echo 'tmux: unknown option -- N' >&2; echo 'usage: tmux' >&2; exit 1\n"
    )
    binary.chmod(0o700)
    return binary


def _seconds(call):
    began = time.monotonic()
    with pytest.raises(TerminalTimeout):
        call()
    return time.monotonic() - began


def _soon(holds, within_s=10):
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True
