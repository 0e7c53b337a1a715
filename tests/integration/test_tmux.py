"""Real tmux: its processes, its environment, and what an agent can do to it."""

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
    """A terminal whose tmux writes a line for each of its processes, and the file of the lines."""
    calls = short_tmp / "calls"
    calls.touch()
    binary = short_tmp / "tmux"
    binary.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {private_tmux.binary} "$@"\n')
    binary.chmod(0o700)
    return TmuxTerminal(private_tmux.socket, tmux_bin=binary), calls


# --- one process per question -----------------------------------------------------------------


def test_every_call_is_one_tmux_process(counting):
    terminal, calls = counting
    terminal.start("agent_0", owner="c0", argv=RUNS)
    calls.write_text("")

    terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.inspect("agent_1", owner="c1")
    terminal.sessions()
    terminal.kill("agent_1", owner="c1")

    asked = [line.split(str(terminal.socket_path) + " ")[1] for line in _lines(calls)]
    assert ["new-session", "list-panes", "list-panes", "run-shell"] == [a.split()[0] for a in asked]


def test_the_first_start_starts_the_server_by_a_separate_command(counting):
    """``ps`` shows the server's command line as long as it lives, so it names no agent."""
    terminal, calls = counting

    session = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert 3 == len(_lines(calls))  # no server yet; start one; start the session
    assert "agent_1" not in _command_line(session.server_pid)
    assert "ORCHESTRATOR" not in _command_line(session.server_pid)


def test_a_kill_of_one_of_five_sessions_leaves_four_and_the_server(terminal):
    """The first session, whose start has started the server, can be killed alone, too."""
    first, *others = [terminal.start(f"agent_{n}", owner=f"c{n}", argv=RUNS) for n in range(1, 6)]

    terminal.kill(first.name, owner="c1")

    assert set(others) == set(terminal.sessions())


def test_the_version_is_read_once(counting):
    terminal, calls = counting
    terminal.check()
    terminal.check()

    assert ["-V"] == _lines(calls)


# --- the start of the server ------------------------------------------------------------------


def test_eight_concurrent_starts_get_one_server_and_eight_sessions(private_tmux):
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


def test_one_of_eight_concurrent_starts_of_one_name_wins(terminal):
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


def test_a_private_server_outlives_its_last_session(terminal, private_tmux):
    session = terminal.start("agent_1", owner="c1", argv=RUNS)
    terminal.kill("agent_1", owner="c1")

    assert session.server_pid == private_tmux.pid
    assert "off" == private_tmux.ask("show-options", "-sv", "exit-empty")
    assert "200" == private_tmux.ask("show-options", "-gv", "history-limit")


def test_a_question_starts_no_server(terminal, private_tmux):
    terminal.sessions()
    terminal.inspect("agent_1", owner="c1")
    terminal.kill("agent_1", owner="c1")

    assert not private_tmux.socket.exists()


def test_a_users_configuration_has_no_effect(short_tmp, private_tmux, monkeypatch):
    (short_tmp / ".tmux.conf").write_text("set -g remain-on-exit on\n")
    monkeypatch.setenv("HOME", str(short_tmp))

    TmuxTerminal(private_tmux.socket).start("agent_1", owner="c1", argv=RUNS)

    assert "off" == private_tmux.ask("show-options", "-gwv", "remain-on-exit")


def test_a_server_has_the_root_as_its_working_directory(terminal, short_tmp, monkeypatch):
    monkeypatch.chdir(short_tmp)

    session = terminal.start("agent_1", owner="c1", argv=RUNS)

    assert "/" == os.readlink(f"/proc/{session.server_pid}/cwd")  # noqa: PTH115 - of /proc


def test_a_server_gets_a_higher_descriptor_limit(private_tmux):
    """A server without free descriptors hangs, and so does every client of it."""
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


# --- what runs in it --------------------------------------------------------------------------

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


def test_a_program_gets_its_arguments_unchanged(terminal, short_tmp):
    received = _run_and_record(terminal, short_tmp, *HOSTILE)

    assert HOSTILE == received["argv"]


def test_a_single_word_is_a_program_and_not_a_shell_command(terminal, short_tmp):
    """tmux alone would pass a single word to a shell."""
    program = short_tmp / "a program; $(with) 'a' name"
    pipe = short_tmp / "pipe"
    os.mkfifo(pipe)
    program.write_text(f"#!/bin/sh\necho ran > {pipe}\n")
    program.chmod(0o700)

    terminal.start("agent_1", owner="c1", argv=[str(program)])

    assert "ran\n" == pipe.read_text()


def test_a_program_may_have_the_name_of_an_option(terminal, short_tmp, monkeypatch):
    monkeypatch.setenv("PATH", str(short_tmp), prepend=os.pathsep)
    pipe = short_tmp / "pipe"
    os.mkfifo(pipe)
    program = short_tmp / "-d"
    program.write_text(f'#!/bin/sh\necho "$*" > {pipe}\n')
    program.chmod(0o700)

    terminal.start("agent_1", owner="c1", argv=["-d", "-s", "agent_2"])

    assert "-s agent_2\n" == pipe.read_text()


def test_a_program_gets_its_cookie_and_starts_in_the_root_directory(terminal, short_tmp):
    received = _run_and_record(terminal, short_tmp)

    assert "c1" == received["env"]["ORCHESTRATOR_COOKIE"]
    assert "/" == received["cwd"]


def test_the_callers_environment_does_not_reach_a_session(terminal, short_tmp, monkeypatch):
    """Neither secrets nor the cookie of an agent that deploys another reach it."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("ORCHESTRATOR_COOKIE", "of-the-parent")
    monkeypatch.setenv("TMUX", "/elsewhere,1,0")

    received = _run_and_record(terminal, short_tmp)

    tmuxs_own = {"TMUX", "TMUX_PANE", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "PWD", "OLDPWD"}
    tmuxs_own.add("COLORTERM")  # Since tmux 3.6.
    expected = {"HOME", "LANG", "LOGNAME", "ORCHESTRATOR_COOKIE", "PATH", "SHELL", "TERM", "USER"}
    assert set() == set(received["env"]) - tmuxs_own - expected - {"SHLVL", "_", "LC_CTYPE"}
    assert "c1" == received["env"]["ORCHESTRATOR_COOKIE"]


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {}])
def test_a_session_starts_in_any_locale(private_tmux, locale):
    """systemd, Docker and MCP clients set no locale."""
    subprocess.run(
        [sys.executable, "-c", _START, str(private_tmux.socket), "agent_1", "c1", *RUNS],
        env={"PATH": os.environ["PATH"], **locale},
        check=True,
    )

    assert ["agent_1"] == [s.name for s in TmuxTerminal(private_tmux.socket).sessions()]


def test_a_command_too_long_for_tmux_is_refused_without_a_session(terminal):
    terminal.start("agent_0", owner="c0", argv=RUNS)

    with pytest.raises(TerminalError, match="too long") as refused:
        terminal.start("agent_1", owner="c1", argv=["true", "x" * 20_000])

    assert "files" in refused.value.hint
    assert ["agent_0"] == [session.name for session in terminal.sessions()]


# --- a hostile agent cannot hide a session ----------------------------------------------------


def test_a_hostile_pane_title_does_not_break_the_listing(terminal, private_tmux):
    """Such titles and directories break libtmux's own listing."""
    started = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("select-pane", "-t", "=agent_1:", "-T", "\u241e a\nb")
    private_tmux.ask("rename-window", "-t", "=agent_1:", "x:y\u241e")

    assert (started,) == terminal.sessions()


def test_a_forged_owner_does_not_forge_another_session(terminal, private_tmux):
    """An owner with a newline spoils only the line of its own session."""
    own_session = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("new-session", "-d", "-s", "x", "sleep", "1000")
    forged = "c2\n1:%9:1:agent_9"
    private_tmux.ask("set-option", "-t", "=x:", "@orchestrator_owner", forged)

    listed = terminal.sessions()

    assert {"agent_1", "x"} == {session.name for session in listed}
    assert own_session in listed


def test_an_added_pane_does_not_replace_the_sessions_first(terminal, private_tmux):
    """A process in a split window does not become the supervisor."""
    started = terminal.start("agent_1", owner="c1", argv=RUNS)
    private_tmux.ask("split-window", "-b", "-t", "=agent_1:", "sleep", "1000")
    private_tmux.ask("new-window", "-b", "-t", "=agent_1:0", "sleep", "1000")

    assert (started,) == terminal.sessions()
    assert SessionState(Presence.OURS, started) == terminal.inspect("agent_1", owner="c1")


# --- how --------------------------------------------------------------------------------------


def _run_and_record(terminal, place, *argv):
    """Run a program in a session that writes down its arguments; return them."""
    pipe = place / "record"
    os.mkfifo(pipe)
    recorder = place / "recorder.py"
    recorder.write_text(
        "import json, os, sys\n"
        "record = dict(argv=sys.argv[2:], env=dict(os.environ), cwd=os.getcwd())\n"
        "open(sys.argv[1], 'w').write(json.dumps(record))\n"
    )
    program = [sys.executable, str(recorder), str(pipe), *argv]
    terminal.start("recorder", owner="c1", argv=program)
    return json.loads(pipe.read_text())


def _lines(path):
    return path.read_text().splitlines()


def _command_line(pid):
    with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123 - of /proc
        return file.read()
