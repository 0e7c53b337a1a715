"""The life of a root's tmux server: it exits some time after its last session, and loses none."""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_core.system.presence import Presence
from orchestrator_core.system.tmux import TmuxTerminal

pytestmark = pytest.mark.tmux

RUNS = ["sleep", "1000"]
LONG_S = 20


@pytest.fixture
def terminal(private_tmux):
    """A terminal whose server exits at once after its last session, or as soon as tmux can."""
    return TmuxTerminal(private_tmux.socket, linger_s=0.2)


def until_gone(private_tmux):
    deadline = time.monotonic() + LONG_S
    while private_tmux.pid is not None:
        assert time.monotonic() < deadline, "the server stays"
        time.sleep(0.02)


def test_a_server_exits_after_its_last_session_was_killed(terminal, private_tmux):
    for name in ("a", "b"):
        terminal.start(name, owner="me", argv=RUNS)
    for name in ("a", "b"):
        assert Presence.OURS is terminal.kill(name, owner="me")
    until_gone(private_tmux)
    assert () == terminal.sessions()


def test_a_server_exits_after_its_last_program_exited(terminal, private_tmux):
    """No process calls tmux at that end: the server itself notices it."""
    terminal.start("a", owner="me", argv=["sleep", "0.1"])
    until_gone(private_tmux)


def test_a_server_that_never_got_a_session_exits(terminal, private_tmux):
    """Its deployer died in between."""
    terminal._start_server(terminal._server())
    until_gone(private_tmux)


def test_a_server_stays_while_it_has_a_session(terminal, private_tmux):
    terminal.start("a", owner="me", argv=RUNS)
    terminal.start("b", owner="me", argv=RUNS)
    before = private_tmux.pid
    terminal.kill("b", owner="me")
    time.sleep(1)  # Five times the linger: what must not happen has no event.
    assert before == private_tmux.pid
    assert Presence.OURS is terminal.inspect("a", owner="me").presence


def test_an_idle_server_is_used_again_within_its_linger(private_tmux):
    terminal = TmuxTerminal(private_tmux.socket)
    first = terminal.start("a", owner="me", argv=RUNS)
    terminal.kill("a", owner="me")
    assert first.server_pid == terminal.start("b", owner="me", argv=RUNS).server_pid


def test_no_session_is_lost_while_servers_exit(private_tmux):
    """With a very short linger, each end races with the starts of others."""
    terminal = TmuxTerminal(private_tmux.socket, linger_s=0.05)
    gate = threading.Barrier(3)

    def live(number):
        gate.wait()
        for turn in range(8):
            name = f"s{number}_{turn}"
            session = terminal.start(name, owner="me", argv=RUNS)
            assert session.pane_pid
            assert Presence.OURS is terminal.kill(name, owner="me")

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(live, number) for number in range(3)]:
            done.result()
    until_gone(private_tmux)


def test_a_server_of_an_earlier_release_exits_after_an_end(terminal, private_tmux):
    private_tmux.begin()
    assert "off" in private_tmux.ask("show-options", "-s", "exit-empty")
    terminal.start("a", owner="me", argv=RUNS)
    terminal.kill("a", owner="me")
    until_gone(private_tmux)


def test_a_users_default_server_keeps_its_options(short_tmp, monkeypatch, killed):
    monkeypatch.setenv("TMUX_TMPDIR", str(short_tmp))
    terminal = TmuxTerminal()
    session = terminal.start("a", owner="me", argv=RUNS)
    try:
        options = subprocess.run(
            ["tmux", "show-options", "-s", "exit-empty", ";", "show-hooks", "-g", "session-closed"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "exit-empty on" in options.stdout
        assert "run-shell" not in options.stdout
        assert Presence.OURS is terminal.kill("a", owner="me")
    finally:
        killed(session.server_pid)
        killed(session.pane_pid)
