"""The supervisor as a real process: its gate, its exit record, and its handoff."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator_core.supervisor import handoff
from orchestrator_core.system.processes import GracePeriods

LONG_S = 20

# --- the gate ------------------------------------------------------------------------


def test_nothing_runs_while_the_deployer_holds_the_lock(stage):
    stage.begin("sh", "-c", "echo ran")
    stage.note("commit")

    seen = stage.processes().watch(stage.supervisor, timeout_s=0.3, fd=stage.news)

    assert (False, False) == (seen.exited, seen.readable)
    assert b"" == stage.log.read_bytes()
    assert (stage.run / "launch").exists()


def test_a_commit_opens_the_gate_and_the_launch_file_is_gone(stage):
    """The agent's environment, secrets included, does not stay on disk."""
    stage.deploy("sh", "-c", "echo ran; exec sleep 60")

    assert not (stage.run / "launch").exists()
    assert stage.is_running()


@pytest.mark.parametrize(
    "journal",
    [
        '{"kind":"begin","crc":"0"}\n',
        '{"kind":"commit","crc":"0"}\n{"kind":"unwind","crc":"0"}\n',
        '{"kind":"commit","crc":"0"}\n{"kind":"close","crc":"0"}\n',
        '{"kind":"commit","crc":"0"}',
        '{"kind":"note","text":"{\\"kind\\":\\"commit\\"","crc":"0"}\n',
        "",
    ],
    ids=["uncommitted", "unwinding", "closed", "torn", "quoted", "empty"],
)
def test_the_gate_stays_closed_without_a_complete_commit_in_force(stage, journal):
    stage.begin("sh", "-c", "echo ran")
    stage.journal.write_text(journal)

    stage.let_go()

    assert 0 == stage.until_over()
    assert b"" == stage.log.read_bytes()
    assert not (stage.run / "exit").exists()
    assert not stage.unwinder_ran.exists()


def test_a_killed_deployer_leaves_nothing_behind(stage):
    """The kernel releases a dead deployer's lock, and the supervisor exits."""
    stage.begin("sh", "-c", "echo ran")
    script = "import fcntl, os, sys; fcntl.flock(int(sys.argv[1]), 2); print('held', flush=True)"
    deployer = subprocess.Popen(
        [sys.executable, "-c", f"{script}; sys.stdin.read()", str(stage.lock)],
        pass_fds=[stage.lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with deployer:
        assert b"held\n" == deployer.stdout.readline()
        stage.let_go()
        assert stage.is_running()

        deployer.kill()

        assert 0 == stage.until_over()
    assert b"" == stage.log.read_bytes()


@pytest.mark.parametrize("missing", ["journal", "launch"])
def test_a_supervisor_that_starts_after_the_undo_starts_nothing(stage, missing):
    """tmux still started its session while the deployment was undone."""
    stage.begin("sh", "-c", "echo ran")
    stage.kill_supervisor()
    (stage.journal if missing == "journal" else stage.run / "launch").unlink()

    stage._start()

    assert 0 == stage.until_over()
    assert b"" == stage.log.read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_supervisor_at_its_gate_is_ended_by_any_signal(stage, signum):
    stage.begin("sh", "-c", "echo ran")
    _until_at_gate(stage)

    stage.signal(signum)

    assert -signum == stage.until_over()


def _until_at_gate(stage):
    """Wait until the kernel lists the supervisor as a waiter for the lock."""
    deadline = time.monotonic() + LONG_S
    while ["FLOCK", "ADVISORY", "READ", str(stage.child.pid)] not in _waits():
        assert time.monotonic() < deadline


def _waits():
    """Return kind, mode and pid of every waiter for a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return [line.split()[2:6] for line in lines if " -> " in line]


# --- the agent's inheritance ------------------------------------------------------------------


def test_the_agent_gets_its_environment_and_nothing_else(stage):
    secret = "two\nlines = 'quoted' ${HOME} \udcff"
    stage.deploy("env", "-0", env={"SECRET": secret, "EMPTY": ""})
    stage.until_over()

    got = set(os.fsdecode(stage.log.read_bytes()).rstrip("\0").split("\0"))

    assert {
        f"PATH={os.environ['PATH']}",
        f"ORCHESTRATOR_COOKIE={stage.cookie}",
        f"SECRET={secret}",
        "EMPTY=",
    } == got


def test_only_the_three_standard_descriptors_reach_the_agent(stage):
    """The supervisor may have inherited others from the tmux server."""
    with open(os.devnull) as one, open(os.devnull) as other:  # noqa: PTH123 - descriptors
        stage.deploy("sh", "-c", "ls /proc/$$/fd", inherited=[one.fileno(), other.fileno()])
    stage.until_over()

    assert ["0", "1", "2"] == stage.log.read_text().split()


def test_the_agents_signals_have_default_handlers_and_none_is_blocked(stage):
    stage.deploy("grep", "^Sig[BI]", "/proc/self/status")
    stage.until_over()

    masks = [int(line.split()[1], 16) for line in stage.log.read_text().splitlines()]

    # glibc ignores its two internal signals in every program that posix_spawn started, as
    # Python 3.13 does, and lets no program set them.
    assert [0, 0] == [mask & ~(0b11 << 31) for mask in masks]


def test_the_prompt_is_on_standard_input(stage):
    prompt = stage.place / "prompt"
    prompt.write_bytes(bytes(range(256)) * 4096)
    stage.deploy("cat", stdin=str(prompt))
    stage.until_over()

    assert prompt.read_bytes() == stage.log.read_bytes()


def test_arguments_arrive_as_they_are(stage):
    arguments = ["", "a b", "$(id)", "`id`", "'\"\\", "two\nlines", "=x", "é", "{prompt}"]
    stage.deploy("printf", "%s\\0", *arguments)
    stage.until_over()

    assert arguments == stage.log.read_text().split("\0")[:-1]


def test_the_agent_runs_in_its_directory_and_leads_a_posix_session(stage):
    pid = stage.deploy("sh", "-c", "pwd; ps -o sid= -p $$; exec 2>&1; tty")
    stage.until_over()

    where, session, tty = stage.log.read_text().splitlines()

    assert (str(stage.work), pid, "not a tty") == (where, int(session), tty)


# --- the exit record -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "signum"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 255", 255, None),
        ("kill -SEGV $$", None, signal.SIGSEGV),
        ("kill -KILL $$", None, signal.SIGKILL),
    ],
)
def test_the_exit_status_is_recorded(stage, script, code, signum):
    stage.deploy("sh", "-c", script)

    assert "exited" == stage.next_line()

    end = stage.exit()
    assert (code, signum, "exit") == (end["code"], end["signal"], end["cause"])
    assert (True, False, None) == (end["contained"], end["forced"], end["error"])
    assert 0 <= end["ran_s"] < LONG_S


@pytest.mark.parametrize(
    ("argv", "config", "why"),
    [
        (["no-such-command"], {}, "the command 'no-such-command' cannot be run: No such file"),
        (["/etc/passwd"], {}, "the command '/etc/passwd' cannot be run: Permission denied"),
        (["{place}/plain"], {}, "cannot be run: Exec format error"),
        (["true"], {"cwd": "/no/such/dir"}, "the working directory '/no/such/dir' cannot be used"),
        (["true"], {"stdin": "/no/prompt"}, "the standard input '/no/prompt' cannot be opened"),
        (["true"], {"log": "/no/log"}, "the log '/no/log' cannot be opened"),
        (["true", "x" * 200_000], {}, "the command 'true' cannot be run: Argument list too long"),
    ],
    ids=["missing", "not-executable", "no-interpreter", "cwd", "stdin", "log", "too-long"],
)
def test_an_agent_that_cannot_start_is_refused_with_its_reason(stage, argv, config, why):
    (stage.place / "plain").write_text("neither binary nor script\n")
    (stage.place / "plain").chmod(0o700)
    stage.begin(*(arg.replace("{place}", str(stage.place)) for arg in argv), **config)
    stage.note("commit")
    stage.let_go()

    event = stage.next_line()

    assert event.startswith("refused ")
    assert why in event
    assert "exited" == stage.next_line()
    end = stage.exit()
    assert ("refused", None, None, True) == (
        end["cause"],
        end["code"],
        end["signal"],
        end["contained"],
    )
    assert why in end["error"]


def test_a_refusal_with_quotes_and_newlines_is_still_json_and_one_line(stage):
    name = 'no"such\ncommand\\ \udc80 é 😀 \x1b[2J'
    stage.begin(name)
    stage.note("commit")
    stage.let_go()

    assert stage.next_line().startswith("refused ")
    assert "exited" == stage.next_line()
    assert "cannot be run" in stage.exit()["error"]


def test_the_agents_identity_is_beside_the_exit_record(stage):
    pid = stage.sh("echo ready >&9; exec sleep 60")

    started = json.loads((stage.run / "started").read_text())

    assert stage.processes().identify(pid).started == started["started"]
    assert (pid, False) == (started["pid"], started["cgroup"])


def test_the_exit_record_needs_no_reader_of_the_events(stage):
    stage.begin("sh", "-c", "exit 3")
    os.close(stage.news)
    stage.news = None
    stage.note("commit")
    stage.let_go()

    stage.until_over()

    assert 3 == stage.exit()["code"]


def test_an_end_without_the_run_directory_succeeds(stage):
    stage.sh("echo ready >&9; exec sleep 60")
    for entry in stage.run.iterdir():
        entry.unlink()
    stage.run.rmdir()

    stage.signal(signal.SIGTERM)

    stage.until_over()
    assert [] == stage.roll.alive()


# --- the log -----------------------------------------------------------------------------

_COUNT = "i=0; while :; do i=$((i+1)); echo line $i; done"


def test_every_byte_is_in_the_log(stage):
    data = bytes(range(256)) * 8192
    (stage.work / "data").write_bytes(data)
    stage.deploy("sh", "-c", "cat data; cat data >&2", terminal=True)
    _swallow(stage)
    stage.until_over()

    assert data + data == stage.log.read_bytes()


def test_the_log_keeps_older_output_and_the_output_of_other_writers(stage):
    stage.log.write_text("before\n")
    stage.deploy("sh", "-c", f"echo one; echo two >> {stage.log}; echo three")

    stage.until_over()

    assert "before\none\ntwo\nthree\n" == stage.log.read_text()


@pytest.mark.parametrize("victim", ["supervisor", "agent"])
def test_no_line_is_lost_when_a_process_is_killed_at_full_speed(stage, victim):
    """The agent writes to the file itself: its output is there when its write() returns."""
    agent = stage.sh(f"echo ready >&9; {_COUNT}")
    _until_larger(stage.log, 100_000)

    os.kill(stage.child.pid if victim == "supervisor" else agent, signal.SIGKILL)
    if victim == "supervisor":
        stage.child.wait(LONG_S)
        seen = stage.log.stat().st_size
        _until_larger(stage.log, seen)  # The agent still writes.
        os.kill(agent, signal.SIGKILL)
    stage.roll.until_over()

    lines = stage.log.read_text().splitlines()
    assert [f"line {n + 1}" for n in range(len(lines))] == lines


def test_a_blocked_terminal_blocks_no_agent(stage):
    """A hung tmux does not read its panes. The agent goes on, and ends as usual."""
    stage.deploy("sh", "-c", "head -c 3000000 /dev/zero; echo end", terminal=True)

    assert "exited" == stage.next_line()
    assert 3_000_004 == stage.log.stat().st_size


def test_the_terminal_shows_the_log(stage):
    stage.deploy("sh", "-c", "echo one; echo two >&2; exec sleep 60", terminal=True)

    assert b"one\r\ntwo\r\n" == _read_terminal(stage, until=b"two\r\n")


def test_a_terminal_that_falls_behind_shows_the_newest_output(stage):
    stage.deploy("sh", "-c", "seq 1 200000; echo end; exec sleep 60", terminal=True)
    _until_larger(stage.log, 1_288_890)

    shown = _read_terminal(stage, until=b"end\r\n")

    assert b"[...]" in shown
    assert len(shown) < 600_000
    assert b"199999\r\n200000\r\nend\r\n" in shown


def _until_larger(path, size):
    deadline = time.monotonic() + LONG_S
    while path.stat().st_size <= size:
        assert time.monotonic() < deadline


def _read_terminal(stage, *, until):
    shown = b""
    while until not in shown:
        assert select.select([stage.terminal], [], [], LONG_S)[0], shown[-100:]
        shown += os.read(stage.terminal, 65536)
    return shown


def _swallow(stage):
    """Read the terminal to its end, as tmux does."""
    try:
        while select.select([stage.terminal], [], [], LONG_S)[0]:
            if not os.read(stage.terminal, 65536):
                return
    except OSError:
        return  # No process has it open.


# --- signals -------------------------------------------------------------------------------


def test_term_lets_the_agent_exit_by_its_own_handler(stage):
    stage.sh("trap 'echo bye; exit 7' TERM; echo ready >&9; while :; do sleep 0.05; done")
    stage.roll.until_ready()

    stage.signal(signal.SIGTERM)

    stage.until_over()
    end = stage.exit()
    assert (7, "term", False, True) == (end["code"], end["cause"], end["forced"], end["contained"])
    assert stage.log.read_text().endswith("bye\n")


def test_an_agent_that_ignores_term_is_killed(stage):
    stage.sh("trap '' TERM; echo ready >&9; while :; do sleep 60; done")
    stage.roll.until_ready()

    stage.signal(signal.SIGTERM)

    stage.until_over()
    end = stage.exit()
    assert (signal.SIGKILL, True, True) == (end["signal"], end["forced"], end["contained"])


def test_a_request_in_the_journal_lets_the_agent_exit_by_itself(stage):
    """The agent reported its end through its own server, and may still write."""
    stage.sh("echo ready >&9; sleep 0.2; echo last words; exit 5")
    stage.roll.until_ready()
    stage.note("request")

    stage.signal(signal.SIGUSR1)

    stage.until_over()
    assert (5, "request") == (stage.exit()["code"], stage.exit()["cause"])
    assert "last words\n" == stage.log.read_text()


def test_an_agent_is_ended_after_its_linger_time(stage):
    stage.sh("echo ready >&9; exec sleep 60")
    stage.roll.until_ready()
    stage.note("request")

    stage.signal(signal.SIGUSR1)

    stage.until_over()
    end = stage.exit()
    assert (signal.SIGTERM, "request", False) == (end["signal"], end["cause"], end["forced"])


def test_an_agent_past_its_deadline_is_ended(stage):
    stage.sh("echo ready >&9; exec sleep 60", deadline_s=0.2)

    stage.until_over()

    end = stage.exit()
    assert [] == stage.roll.alive()
    assert (signal.SIGTERM, "deadline", True) == (end["signal"], end["cause"], end["contained"])
    assert 0.2 <= end["ran_s"] < LONG_S


def test_an_agent_before_its_deadline_ends_as_usual(stage):
    stage.deploy("sh", "-c", "exit 3", deadline_s=LONG_S)

    stage.until_over()

    assert (3, "exit") == (stage.exit()["code"], stage.exit()["cause"])


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGUSR1,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGPIPE,
        signal.SIGRTMIN + 3,
    ],
)
def test_a_signal_from_the_agent_does_not_end_its_supervisor(stage, signum):
    """USR1 without a request, HUP with a live terminal, and all signals without a meaning."""
    stage.patience = GracePeriods(term_s=0.02, kill_s=3, linger_s=0.02)
    stage.sh("echo ready >&9; exec sleep 60", terminal=True)
    stage.roll.until_ready()

    stage.signal(signum)

    assert not stage.processes().watch(stage.supervisor, timeout_s=0.15).exited
    assert ["agent"] == stage.roll.alive()
    assert not (stage.run / "exit").exists()


def test_an_agent_whose_terminal_is_gone_is_ended(stage):
    """The session, or the tmux server, was killed."""
    stage.sh("trap '' HUP; echo ready >&9; while :; do sleep 60; done", terminal=True)
    stage.roll.until_ready()

    os.close(stage.terminal)
    stage.terminal = None

    stage.until_over()
    assert [] == stage.roll.alive()
    assert ("hangup", True) == (stage.exit()["cause"], stage.exit()["contained"])
    assert "ran\n" == stage.unwinder_ran.read_text()


def test_ctrl_c_in_the_pane_reaches_the_agent(stage):
    stage.sh(
        "trap 'echo interrupted; exit 9' INT; echo ready >&9; while :; do sleep 0.05; done",
        terminal=True,
    )
    stage.roll.until_ready()

    os.write(stage.terminal, b"\x03")

    stage.until_over()
    assert (9, "exit") == (stage.exit()["code"], stage.exit()["cause"])
    assert "interrupted\n" == stage.log.read_text()


# --- the unwinder -----------------------------------------------------------------------------


def test_the_supervisor_becomes_the_unwinder_in_the_same_process(stage):
    """A process that watches the supervisor thereby watches the unwinder."""
    report = stage.place / "report"
    script = (
        "import os, sys; out = open(sys.argv[1], 'w'); assert not sys.stdin.read();"
        "print(os.getpid(), sorted(os.environ), *open('/proc/self/status'), sep='\\n', file=out)"
    )
    stage.deploy("true", unwinder_argv=[sys.executable, "-c", script, str(report)])

    assert 0 == stage.until_over()

    pid, environment, *lines = report.read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    ignored = {n for n in range(1, 65) if int(status["SigIgn"], 16) & 1 << n - 1}
    assert stage.child.pid == int(pid)
    assert "ORCHESTRATOR_COOKIE" not in environment
    assert 1 << signal.SIGTERM - 1 == int(status["SigBlk"], 16)
    assert {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT} <= ignored
    assert not {signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM} & ignored


def test_a_term_between_supervisor_and_unwinder_is_not_lost(stage):
    """TERM means that another process took over. The unwinder unblocks the pending signal."""
    go = stage.place / "go"
    os.mkfifo(go)
    script = (
        "import signal, sys; open(sys.argv[1]).read(); print(signal.sigpending())"
        "; signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])"
    )
    stage.deploy("true", unwinder_argv=[sys.executable, "-c", script, str(go)])
    assert "exited" == stage.next_line()
    with go.open("w"):  # Opens when the unwinder has opened it, after exec.
        stage.signal(signal.SIGTERM)

    assert -signal.SIGTERM == stage.until_over()


@pytest.mark.parametrize("kind", ["unwind", "close"])
def test_the_supervisor_starts_no_unwinder_while_another_process_unwinds(stage, kind):
    stage.sh("echo ready >&9; exec sleep 60")
    stage.roll.until_ready()
    stage.note(kind)

    stage.signal(signal.SIGTERM)

    assert 0 == stage.until_over()
    assert not stage.unwinder_ran.exists()


def test_the_supervisor_offers_no_handoff_while_another_process_unwinds(stage):
    """That process waits for it; a running sweeper has nothing to take over."""
    lock = stage.place / "sweeper.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stage.sh("echo ready >&9; exec sleep 60", sweeper_lock=str(lock))
        stage.roll.until_ready()
        stage.note("unwind")
        stage.signal(signal.SIGTERM)
        while "exited" != stage.next_line():
            pass
        began = time.monotonic()

        assert 0 == stage.until_over()

    assert time.monotonic() - began < handoff.HANDOFF_TIMEOUT_S


def test_an_unwinder_that_cannot_run_leaves_the_saga_to_recovery(stage):
    stage.deploy("true", unwinder_argv=["/no/such/unwinder"])

    assert 1 == stage.until_over()
    assert stage.exit()["contained"]


# --- the program -------------------------------------------------------------------------------


def test_the_supervisor_imports_no_slow_module():
    """Every deployment starts a supervisor, and waits for its imports."""
    program = (
        "import sys; sys.path.append(sys.argv[1]); import orchestrator_core.supervisor.main_loop; "
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(root)], capture_output=True, check=True
    )

    slow = {"enum", "json", "signal", "subprocess", "typing", "pathlib", "re", "attr", "contextlib"}
    slow |= {"ctypes", "os", "termios"}
    assert set() == slow & set(eval(output.stdout))


def test_the_command_line_contains_no_secret(stage):
    stage.begin("true", "s3cret", env={"TOKEN": "s3cret"})

    assert "s3cret" not in Path(f"/proc/{stage.child.pid}/cmdline").read_text()
    assert 0o600 == (stage.run / "launch").stat().st_mode & 0o777
