"""What only real tmux can show: its processes, its environment, its misfortunes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator_core.exceptions import SessionExists, TerminalError
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.terminal import SessionState
from orchestrator_core.system.tmux import TmuxTerminal

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
    terminal.inspect("agent_1", owner="c1")
    terminal.sessions()
    terminal.kill("agent_1", owner="c1")

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

    terminal.kill(first.name, owner="c1")

    assert set(others) == set(terminal.sessions())


def test_the_version_is_asked_once(counting):
    terminal, calls = counting
    terminal.check()
    terminal.check()

    assert ["-V"] == _lines(calls)


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
    assert SessionState(Presence.OURS, winners[0]) == terminal.inspect(
        "agent_1", owner=winners[0].owner
    )


def test_a_server_of_ours_stays_when_its_last_session_ends(terminal, private_tmux):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.kill("agent_1", owner="c1")

    assert session.server_pid == private_tmux.pid
    assert "off" == private_tmux.ask("show-options", "-sv", "exit-empty")
    assert "200" == private_tmux.ask("show-options", "-gv", "history-limit")


def test_a_server_is_not_started_by_asking(terminal, private_tmux):
    terminal.sessions()
    terminal.inspect("agent_1", owner="c1")
    terminal.kill("agent_1", owner="c1")

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
from orchestrator_core.system.tmux import TmuxTerminal
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
    assert SessionState(Presence.OURS, started) == terminal.inspect("agent_1", owner="c1")


# --- how ---


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


def _lines(path):
    return path.read_text().splitlines()


def _command_line(pid):
    with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123 - of /proc
        return file.read()
