"""What only real tmux can show: its processes, its environment, its misfortunes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_core.exceptions import (
    InvalidInput,
    SessionExists,
    TerminalError,
    TerminalTimeout,
    TerminalUnavailable,
)
from orchestrator_core.terminal import Presence, Sighting
from orchestrator_core.tmux import TmuxTerminal

pytestmark = pytest.mark.tmux

RUNS = ["sleep", "1000"]


@pytest.fixture
def terminal(private_tmux):
    return TmuxTerminal(private_tmux.socket)


@pytest.fixture
def counting(short_tmp, private_tmux):
    """A tmux that writes a line for each of its processes, and the lines' file."""
    calls = short_tmp / "calls"
    calls.touch()
    binary = short_tmp / "tmux"
    binary.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {private_tmux.binary} "$@"\n')
    binary.chmod(0o700)
    return TmuxTerminal(private_tmux.socket, tmux_bin=binary), calls


# --- one process per question -----------------------------------------------------------


def test_every_call_is_one_tmux_process(counting):
    terminal, calls = counting
    terminal.start("agent_0", owner="c0", argv=RUNS)
    calls.write_text("")

    terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.look("agent_1", owner="c1")
    terminal.sessions()
    terminal.end("agent_1", owner="c1")

    asked = [line.split(str(terminal.socket_path) + " ")[1] for line in _lines(calls)]
    assert ["new-session", "list-panes", "list-panes", "if-shell"] == [a.split()[0] for a in asked]


def test_the_first_start_makes_the_server_apart_from_the_session(counting):
    """The server's command line is shown for ever: it holds nothing of any agent."""
    terminal, calls = counting

    session = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert 3 == len(_lines(calls))  # no server yet; start one; start the session
    assert "agent_1" not in _command_line(session.server_pid)
    assert "ORCHESTRATOR" not in _command_line(session.server_pid)


def test_ending_one_of_five_leaves_four_and_the_server(terminal):
    """Even the one whose start has started the server."""
    first, *others = [terminal.start(f"agent_{n}", owner=f"c{n}", argv=RUNS) for n in range(1, 6)]

    terminal.end(first.name, owner="c1")

    assert set(others) == set(terminal.sessions())


# --- who starts the server --------------------------------------------------------------


def test_eight_starters_at_once_get_one_server_and_eight_sessions(private_tmux):
    start_line = threading.Barrier(8)

    def start(number):
        terminal = TmuxTerminal(private_tmux.socket)
        start_line.wait()
        return terminal.start(f"agent_{number}", owner=f"c{number}", argv=RUNS)

    with ThreadPoolExecutor(8) as pool:
        started = set(pool.map(start, range(8)))

    assert started == set(TmuxTerminal(private_tmux.socket).sessions())
    assert 8 == len(started)
    assert {private_tmux.pid} == {session.server_pid for session in started}


def test_of_eight_starters_of_one_name_one_wins(terminal):
    terminal.start("agent_0", owner="c0", argv=RUNS)
    start_line = threading.Barrier(8)

    def start(number):
        start_line.wait()
        try:
            return terminal.start("agent_1", owner=f"c{number}", argv=RUNS)
        except SessionExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [session for session in pool.map(start, range(8)) if session]

    assert 1 == len(winners)
    assert Sighting(Presence.OURS, winners[0]) == terminal.look("agent_1", owner=winners[0].owner)


def test_a_server_of_ours_stays_when_its_last_session_ends(terminal, private_tmux):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.end("agent_1", owner="c1")

    assert session.server_pid == private_tmux.pid
    assert "off" == private_tmux.ask("show-options", "-sv", "exit-empty")
    assert "200" == private_tmux.ask("show-options", "-gv", "history-limit")


def test_a_server_is_not_started_by_asking(terminal, private_tmux):
    terminal.sessions()
    terminal.look("agent_1", owner="c1")
    terminal.end("agent_1", owner="c1")

    assert not private_tmux.socket.exists()


def test_a_users_configuration_has_no_say(short_tmp, private_tmux, monkeypatch):
    (short_tmp / ".tmux.conf").write_text("set -g remain-on-exit on\n")
    monkeypatch.setenv("HOME", str(short_tmp))

    TmuxTerminal(private_tmux.socket).start("agent_1", owner="c1", argv=RUNS)

    assert "off" == private_tmux.ask("show-options", "-gwv", "remain-on-exit")


def test_a_server_keeps_no_directory_busy(terminal, short_tmp, monkeypatch):
    monkeypatch.chdir(short_tmp)

    session = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert "/" == os.readlink(f"/proc/{session.server_pid}/cwd")  # noqa: PTH115 - of /proc


def test_a_server_gets_more_descriptors_than_a_miser_has(private_tmux):
    """With too few a server wedges, and with it every client: ours has what it needs."""
    miser = ["/bin/sh", "-c", 'ulimit -S -n 32; exec "$@"', "sh"]
    start = [sys.executable, "-c", _START, str(private_tmux.socket), "agent_1", "c1", *RUNS]
    subprocess.run([*miser, *start], check=True)

    with open(f"/proc/{private_tmux.pid}/limits") as file:  # noqa: PTH123 - of /proc
        limit = next(line.split()[3] for line in file if line.startswith("Max open files"))
    assert int(limit) >= 1024


_START = """
import sys
from orchestrator_core.tmux import TmuxTerminal
socket, name, owner, *argv = sys.argv[1:]
TmuxTerminal(socket).start(name, owner=owner, argv=argv)
"""


# --- what runs in it ---------------------------------------------------------------------

HOSTILE = [
    "-d",
    "--",
    ";",
    "a;",
    "a\\;",
    "\\",
    "a\\\\;",
    ";;",
    "",
    " ",
    "$(touch /tmp/executed)",
    "`id`",
    "'",
    '"',
    "#{pid}",
    "#(id)",
    "a\nb",
    "{",
    "}",
    "%1",
    "é ☃",
    "\udcff",
    "~",
    "*",
]


def test_a_program_gets_its_arguments_as_they_are(terminal, short_tmp):
    told = _run_telling(terminal, short_tmp, *HOSTILE)

    assert HOSTILE == told["argv"]


def test_a_single_word_is_a_program_and_no_shell_line(terminal, short_tmp):
    """tmux gives a single word to a shell; here it is only ever a file to run."""
    program = short_tmp / "a program; $(with) 'a' name"
    pipe = short_tmp / "pipe"
    os.mkfifo(pipe)
    program.write_text(f"#!/bin/sh\necho ran > {pipe}\n")
    program.chmod(0o700)

    terminal.start("agent_1", owner="c1", argv=[str(program)])

    assert "ran\n" == pipe.read_text()


def test_a_program_may_be_called_like_an_option(terminal, short_tmp, monkeypatch):
    monkeypatch.setenv("PATH", str(short_tmp), prepend=os.pathsep)
    pipe = short_tmp / "pipe"
    os.mkfifo(pipe)
    program = short_tmp / "-d"
    program.write_text(f'#!/bin/sh\necho "$*" > {pipe}\n')
    program.chmod(0o700)

    terminal.start("agent_1", owner="c1", argv=["-d", "-s", "agent_2"])

    assert "-s agent_2\n" == pipe.read_text()


def test_a_program_finds_its_cookie_and_the_root_directory(terminal, short_tmp):
    told = _run_telling(terminal, short_tmp)

    assert "c1" == told["env"]["ORCHESTRATOR_COOKIE"]
    assert "/" == told["cwd"]


def test_nothing_of_our_environment_reaches_a_session(terminal, short_tmp, monkeypatch):
    """Neither secrets, nor the cookie of an agent that deploys another."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("ORCHESTRATOR_COOKIE", "of-the-parent")
    monkeypatch.setenv("TMUX", "/elsewhere,1,0")

    told = _run_telling(terminal, short_tmp)

    tmuxs_own = {"TMUX", "TMUX_PANE", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "PWD", "OLDPWD"}
    ours = {"HOME", "LANG", "LOGNAME", "ORCHESTRATOR_COOKIE", "PATH", "SHELL", "TERM", "USER"}
    assert set() == set(told["env"]) - tmuxs_own - ours - {"SHLVL", "_", "LC_CTYPE"}
    assert "c1" == told["env"]["ORCHESTRATOR_COOKIE"]


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {}])
def test_any_locale_will_do(private_tmux, locale):
    """Under systemd, Docker and MCP clients there is no locale; nothing depends on one."""
    subprocess.run(
        [sys.executable, "-c", _START, str(private_tmux.socket), "agent_1", "c1", *RUNS],
        env={"PATH": os.environ["PATH"], **locale},
        check=True,
    )

    assert ["agent_1"] == [s.name for s in TmuxTerminal(private_tmux.socket).sessions()]


def test_a_command_too_long_for_tmux_is_refused_and_leaves_nothing(terminal):
    terminal.start("agent_0", owner="c0", argv=RUNS)

    with pytest.raises(TerminalError, match="too long") as refused:
        terminal.start("agent_1", owner="c1", argv=["true", "x" * 20_000])

    assert "files" in refused.value.hint
    assert ["agent_0"] == [session.name for session in terminal.sessions()]


# --- an agent cannot blind us ---------------------------------------------------------------


def test_whatever_a_pane_calls_itself_all_sessions_are_still_listed(terminal, private_tmux):
    """Titles and directories that break libtmux's own listing do not reach ours."""
    started = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("select-pane", "-t", "=agent_1:", "-T", "\u241e a\nb")
    private_tmux.ask("rename-window", "-t", "=agent_1:", "x:y\u241e")

    assert (started,) == terminal.sessions()


def test_a_stranger_cannot_forge_a_session_by_its_owner(terminal, private_tmux):
    """An owner with a newline spoils its own line only."""
    ours = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("new-session", "-d", "-s", "x", "sleep", "1000")
    forged = "c2\n1:%9:1:agent_9"
    private_tmux.ask("set-option", "-t", "=x:", "@orchestrator_owner", forged)

    listed = terminal.sessions()

    assert {"agent_1", "x"} == {session.name for session in listed}
    assert ours in listed


def test_a_pane_somebody_adds_is_not_the_sessions_own(terminal, private_tmux):
    """Whoever splits the window and works there does not become the supervisor."""
    started = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("split-window", "-b", "-t", "=agent_1:", "sleep", "1000")
    private_tmux.ask("new-window", "-b", "-t", "=agent_1:0", "sleep", "1000")

    assert (started,) == terminal.sessions()
    assert Sighting(Presence.OURS, started) == terminal.look("agent_1", owner="c1")


# --- misfortune -----------------------------------------------------------------------------


def test_a_stopped_server_costs_each_call_its_timeout_and_no_more(private_tmux):
    terminal = TmuxTerminal(private_tmux.socket, timeout_s=0.2)
    pid = terminal.start("agent_1", owner="c1", argv=RUNS).server_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        took = [
            _seconds(lambda: terminal.start("agent_2", owner="c2", argv=RUNS)),
            _seconds(lambda: terminal.end("agent_1", owner="c1")),
            _seconds(terminal.sessions),
        ]
        assert Presence.UNKNOWN == terminal.look("agent_1", owner="c1").presence
    finally:
        os.kill(pid, signal.SIGCONT)

    assert all(0.2 <= seconds < 2 for seconds in took), took


def test_a_timeout_says_which_server_and_what_to_do(private_tmux):
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


def test_a_stale_socket_is_no_server_and_in_nobodys_way(terminal, private_tmux, killed):
    first = terminal.start("agent_1", owner="c1", argv=RUNS)
    killed(first.server_pid)
    assert private_tmux.socket.is_socket()

    assert () == terminal.sessions()
    second = terminal.start("agent_1", owner="c2", argv=RUNS)
    assert (second,) == terminal.sessions()


def test_a_socket_that_was_removed_is_no_server(terminal, private_tmux, killed):
    """The server lives on unseen; nothing of it is taken for ours, and a new one starts."""
    lost = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.socket.unlink()
    try:
        assert Sighting(Presence.ABSENT) == terminal.look("agent_1", owner="c1")
        found = terminal.start("agent_1", owner="c1", argv=RUNS)
        assert lost.server_pid != found.server_pid
    finally:
        killed(lost.server_pid)
        killed(lost.pane_pid)


def test_a_file_where_the_socket_should_be_is_nobodys_to_replace(terminal, private_tmux):
    """tmux would remove it; it may be somebody's."""
    private_tmux.socket.write_text("precious")

    with pytest.raises(TerminalError, match="is not a socket of ours") as refused:
        terminal.start("agent_1", owner="c1", argv=RUNS)

    assert "precious" == private_tmux.socket.read_text()
    assert str(private_tmux.socket) in refused.value.hint
    assert () == terminal.sessions()


def test_a_socket_of_somebody_else_is_not_talked_to(terminal, monkeypatch):
    """Whoever listens there would be told of our agents, and could say anything."""
    terminal.start("agent_0", owner="c0", argv=RUNS)
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)

    with pytest.raises(TerminalError, match="is not a socket of ours"):
        terminal.start("agent_1", owner="c1", argv=RUNS)

    assert ["agent_0"] == [session.name for session in terminal.sessions()]


def test_a_socket_that_leads_elsewhere_is_not_followed_to_a_start(terminal, private_tmux):
    private_tmux.socket.symlink_to("/tmp/nobody-has-put-this-here")

    with pytest.raises(TerminalError, match="is not a socket of ours"):
        terminal.start("agent_1", owner="c1", argv=RUNS)


@pytest.mark.parametrize("place", ["missing/tmux.sock", "file/tmux.sock"])
def test_a_place_that_cannot_hold_a_socket_is_named(short_tmp, place):
    (short_tmp / "file").touch()
    terminal = TmuxTerminal(short_tmp / place)

    with pytest.raises(TerminalError, match=f"did not start a server: error creating .*/{place}"):
        terminal.start("agent_1", owner="c1", argv=RUNS)


def test_a_listener_that_is_no_tmux_is_an_error_and_not_an_absence(private_tmux):
    """Somebody else's program at the socket: we cannot ask, so we do not know."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(private_tmux.socket))
        listener.listen()
        terminal = TmuxTerminal(private_tmux.socket, timeout_s=0.2)

        assert Presence.UNKNOWN == terminal.look("agent_1", owner="c1").presence
        with pytest.raises(TerminalError):
            terminal.sessions()
    private_tmux.socket.unlink()


def test_a_path_no_socket_can_have_is_refused_at_once(short_tmp):
    with pytest.raises(InvalidInput, match="longer than 103 bytes"):
        TmuxTerminal(short_tmp / ("x" * 100))


# --- which tmux ----------------------------------------------------------------------------


def test_without_tmux_it_says_how_to_get_one(monkeypatch, short_tmp):
    monkeypatch.setenv("PATH", str(short_tmp))
    terminal = TmuxTerminal(short_tmp / "tmux.sock")

    with pytest.raises(TerminalUnavailable, match="there is no tmux") as unavailable:
        terminal.check()

    assert "install tmux" in unavailable.value.hint
    assert Presence.UNKNOWN == terminal.look("agent_1", owner="c1").presence


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
    ("said", "good"),
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
def test_a_tmux_must_be_new_enough(short_tmp, said, good):
    terminal = TmuxTerminal(short_tmp / "tmux.sock", tmux_bin=_pretender(short_tmp, said))

    if good:
        assert said == terminal.check()
    else:
        with pytest.raises(TerminalUnavailable, match=r"3\.2 or newer is needed"):
            terminal.check()


def test_an_old_tmux_is_told_by_any_call(short_tmp):
    """What an old tmux does not know is not reported as what it says about it."""
    terminal = TmuxTerminal(short_tmp / "tmux.sock", tmux_bin=_pretender(short_tmp, "tmux 3.0a"))

    with pytest.raises(TerminalUnavailable, match=r"3\.0a.*3\.2 or newer"):
        terminal.start("agent_1", owner="c1", argv=RUNS)
    assert "3.2 or newer" in terminal.look("agent_1", owner="c1").why


def test_the_version_is_asked_once(counting):
    terminal, calls = counting
    terminal.check()
    terminal.check()

    assert ["-V"] == _lines(calls)


def test_a_server_that_goes_away_while_asked_is_asked_once_more(short_tmp, private_tmux):
    """tmux says "server exited unexpectedly": the next answer is the true one."""
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
    """A user's default server, in a place of the test's own, with a configuration."""
    monkeypatch.setenv("TMUX_TMPDIR", str(short_tmp))
    monkeypatch.setenv("HOME", str(short_tmp))
    (short_tmp / ".tmux.conf").write_text(
        "set -g history-limit 7777\nset -g remain-on-exit on\nset -g destroy-unattached off\n"
    )
    private_tmux.socket = short_tmp / f"tmux-{os.geteuid()}" / "default"
    return TmuxTerminal()


def test_on_the_default_server_sessions_live_and_end_as_anywhere(default):
    session = default.start("agent_1", owner="c1", argv=RUNS)

    assert (session,) == default.sessions()
    assert Presence.OURS == default.end("agent_1", owner="c1")
    assert () == default.sessions()


def test_the_default_server_keeps_its_users_options(default, private_tmux):
    default.start("agent_1", owner="c1", argv=RUNS)

    assert "7777" == private_tmux.ask("show-options", "-gv", "history-limit")
    assert "on" == private_tmux.ask("show-options", "-gwv", "remain-on-exit")
    assert "on" == private_tmux.ask("show-options", "-sv", "exit-empty")
    assert "" == private_tmux.ask("show-options", "-gv", "@orchestrator_owner")


def test_a_configuration_that_keeps_dead_panes_does_not_keep_ours(default):
    """The session ends with its program, whatever the user has for their own."""
    session = default.start("agent_1", owner="c1", argv=RUNS)

    os.kill(session.pane_pid, signal.SIGKILL)

    assert _soon(lambda: Presence.ABSENT == default.look("agent_1", owner="c1").presence)


# --- how -------------------------------------------------------------------------------------


def _run_telling(terminal, place, *argv):
    """Run a program in a session that tells what it was given, and return that."""
    pipe = place / "told"
    os.mkfifo(pipe)
    teller = place / "teller.py"
    teller.write_text(
        "import json, os, sys\n"
        "told = dict(argv=sys.argv[2:], env=dict(os.environ), cwd=os.getcwd())\n"
        "open(sys.argv[1], 'w').write(json.dumps(told))\n"
    )
    program = [sys.executable, str(teller), str(pipe), *argv]
    terminal.start("teller", owner="c1", argv=program)
    return json.loads(pipe.read_text())


def _pretender(place, said):
    """Make a program that says it is some tmux, and knows no -N, as before 3.2."""
    binary = place / "pretender"
    binary.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && {{ echo "{said}"; exit; }}\n'
        "echo 'tmux: unknown option -- N' >&2; echo 'usage: tmux' >&2; exit 1\n"
    )
    binary.chmod(0o700)
    return binary


def _lines(path):
    return path.read_text().splitlines()


def _command_line(pid):
    with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123 - of /proc
        return file.read()


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
