"""
The contract of a supervised session, for the real supervisor and for the fake.

Both read and write the same files: a journal that the test writes, a launch file, a log,
the events FIFO and the exit file. No other part of the library is involved.
"""

from __future__ import annotations

import json
import os
import signal

import pytest

from orchestrator_core.system.presence import Presence
from orchestrator_core.system.processes.protocol import Identity

LONG_S = 20

# --- the gate ---------------------------------------------------------------------------


def test_nothing_runs_while_the_deployer_holds_the_lock(stage):
    stage.begin("speaks")
    stage.note("commit")

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.3, fd=stage.news)

    assert (False, False) == (seen.readable, seen.exited)
    assert Presence.OURS == stage.terminal.inspect(stage.name, owner=stage.cookie).presence
    assert (stage.run / "launch").exists()
    assert b"" == stage.log.read_bytes()


def test_a_session_without_a_commit_exits_by_itself(stage):
    """The deployer gave up or died. No other process has to clean up."""
    stage.begin("speaks")

    stage.let_go()

    stage.until_over()
    assert [] == stage.alive()
    assert b"" == stage.log.read_bytes()
    assert not (stage.run / "exit").exists()
    assert not stage.unwinder_ran.exists()


@pytest.mark.parametrize("after", ["unwind", "close"])
def test_a_commit_with_an_undo_after_it_does_not_open_the_gate(stage, after):
    stage.begin("speaks")
    stage.note("commit")
    stage.note(after)

    stage.let_go()

    stage.until_over()
    assert b"" == stage.log.read_bytes()
    assert not stage.unwinder_ran.exists()


def test_a_torn_commit_does_not_open_the_gate(stage):
    stage.begin("speaks")
    with stage.journal.open("ab") as file:
        file.write(b'{"kind":"commit","crc":"00000000"}')

    stage.let_go()

    stage.until_over()
    assert b"" == stage.log.read_bytes()


def test_a_supervisor_without_a_journal_does_not_wait(stage):
    stage.journal.unlink(missing_ok=True)
    stage.begin("runs")
    # The lock is still held, on a file that no longer has a name.
    stage.terminal.kill(stage.name, owner=stage.cookie)

    stage.until_over()

    assert [] == stage.alive()


def test_a_supervisor_at_its_gate_is_ended_at_once(stage):
    stage.begin("speaks")

    ending = stage.end()

    stage.until_over()
    assert [] == stage.alive()
    assert () == ending.survivors
    assert not ending.forced
    assert ending.proven
    assert b"" == stage.log.read_bytes()


def test_a_commit_opens_the_gate_and_the_launch_file_is_gone(stage):
    """The agent's environment, secrets included, does not stay on disk."""
    stage.deploy("speaks")

    assert not (stage.run / "launch").exists()
    assert Presence.OURS == stage.terminal.inspect(stage.name, owner=stage.cookie).presence
    assert stage.alive()


def test_the_agents_identity_is_readable_for_as_long_as_it_runs(stage):
    """A later process finds the agent without the events."""
    stage.begin("runs")
    stage.note("commit")
    stage.let_go()
    _, pid = stage.next_line().split()

    started = json.loads((stage.run / "started").read_text())

    assert {"boot_id", "pid", "started", "pid_ns", "time_ns", "cgroup"} == set(started)
    assert int(pid) == started["pid"]
    agent = stage.processes.identify(int(pid))
    assert (agent.boot_id, agent.started) == (started["boot_id"], started["started"])


# --- the exit record ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "code", "signum"),
    [("exits-0", 0, None), ("exits-3", 3, None), ("dies", None, signal.SIGSEGV)],
)
def test_the_exit_status_is_recorded(stage, agent, code, signum):
    stage.deploy(agent)

    assert "exited" == stage.next_line()

    record = stage.exit()
    assert (code, signum) == (record["code"], record["signal"])
    assert ("exit", True, False) == (
        record["cause"],
        record["contained"],
        record["forced"],
    )
    assert None is record["error"]
    stage.until_over()
    assert [] == stage.alive()


def test_the_agents_output_is_in_the_log(stage):
    stage.deploy("prints")

    assert "exited" == stage.next_line()

    assert b"one\ntwo\n" == stage.log.read_bytes()


def test_a_command_that_does_not_exist_is_refused(stage):
    stage.begin("missing")
    stage.note("commit")
    stage.let_go()

    assert stage.next_line().startswith("refused ")
    assert "exited" == stage.next_line()
    record = stage.exit()
    assert ("refused", None, None) == (record["cause"], record["code"], record["signal"])
    assert "No such file or directory" in record["error"]
    stage.until_over()


def test_a_directory_that_does_not_exist_is_refused(stage):
    stage.begin("runs", cwd=stage.place / "nowhere")
    stage.note("commit")
    stage.let_go()

    assert stage.next_line().startswith("refused ")
    stage.until_over()
    assert "No such file or directory" in stage.exit()["error"]
    assert [] == stage.alive()


def test_the_exit_record_needs_no_reader_of_the_events(stage):
    stage.begin("exits-3")
    os.close(stage.news)
    stage.news = -1
    stage.note("commit")
    stage.let_go()

    stage.until_over()

    assert 3 == stage.exit()["code"]


def test_the_events_end_with_the_supervisor(stage):
    stage.deploy("exits-0", unwinder=False)
    assert "exited" == stage.next_line()
    stage.until_over()

    assert stage.processes.watch(None, timeout_s=LONG_S, fd=stage.news).readable
    assert b"" == os.read(stage.news, 1)


# --- the end from outside ------------------------------------------------------------------


def test_an_end_from_outside_leaves_nothing_and_proves_it(stage):
    stage.deploy("runs")

    ending = stage.end()

    assert [] == stage.alive()
    assert (True, (), False) == (ending.proven, ending.survivors, ending.forced)
    assert ("term", signal.SIGTERM) == (stage.exit()["cause"], stage.exit()["signal"])
    stage.until_over()
    assert not stage.unwinder_ran.exists()


def test_an_agent_that_ignores_term_is_killed(stage):
    stage.deploy("stubborn")
    stage.wait_until_ready()

    ending = stage.end()

    assert [] == stage.alive()
    assert (True, ()) == (ending.proven, ending.survivors)
    assert (signal.SIGKILL, True) == (stage.exit()["signal"], stage.exit()["forced"])


def test_a_second_end_finds_nothing_to_do(stage):
    stage.deploy("runs")
    stage.end()

    again = stage.processes.terminate_all(stage.selector, stage.patience)

    assert (0, (), True) == (again.signalled, again.survivors, again.proven)


def test_a_daemon_does_not_outlive_its_agent(stage):
    """The agent's own exit is its end, whatever it left running."""
    stage.deploy("leaves-a-daemon")

    stage.until_over()

    assert [] == stage.alive()
    assert (0, "exit", True) == (
        stage.exit()["code"],
        stage.exit()["cause"],
        stage.exit()["contained"],
    )


def test_the_end_of_the_session_is_the_end_of_its_agent(stage):
    """A user kills the session: the processes in it end as well."""
    stage.deploy("stubborn")
    stage.wait_until_ready()

    assert Presence.OURS == stage.terminal.kill(stage.name, owner=stage.cookie)

    stage.until_over()
    assert [] == stage.alive()
    assert ("hangup", True) == (stage.exit()["cause"], stage.exit()["contained"])


def test_an_agent_whose_supervisor_was_killed_is_found_and_ended(stage):
    stage.deploy("runs")
    stage.processes.signal(stage.supervisor, signal.SIGKILL)
    stage.until_over()
    assert stage.alive()

    ending = stage.end()

    assert [] == stage.alive()
    assert () == ending.survivors
    assert ending.signalled >= 1
    assert not (stage.run / "exit").exists()


# --- the end from inside ---------------------------------------------------------------------


def test_a_request_from_inside_ends_the_agent_after_its_linger_time(stage):
    stage.deploy("runs")
    stage.note("request")
    assert stage.processes.signal(stage.supervisor, signal.SIGUSR1)

    stage.until_over()

    assert [] == stage.alive()
    assert ("request", signal.SIGTERM) == (stage.exit()["cause"], stage.exit()["signal"])


def test_a_request_signal_without_a_request_in_the_journal_is_ignored(stage):
    stage.deploy("runs")
    assert stage.processes.signal(stage.supervisor, signal.SIGUSR1)

    seen = stage.processes.watch(stage.supervisor, timeout_s=2 * stage.patience.linger_s)

    assert not seen.exited
    assert stage.alive()


def test_a_hangup_signal_is_ignored_while_the_terminal_is_alive(stage):
    stage.deploy("runs")
    assert stage.processes.signal(stage.supervisor, signal.SIGHUP)

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.3)

    assert not seen.exited


# --- the unwinder ----------------------------------------------------------------------------


def test_the_supervisor_becomes_the_unwinder_at_the_agents_own_end(stage):
    stage.deploy("exits-3")

    stage.until_over()

    assert "ran\n" == stage.unwinder_ran.read_text()


def test_the_supervisor_starts_no_unwinder_while_another_process_unwinds(stage):
    stage.deploy("obeys")
    stage.note("unwind")
    stage.let_exit()

    stage.until_over()

    assert not stage.unwinder_ran.exists()


def test_a_supervisor_without_an_unwinder_exits(stage):
    stage.deploy("exits-3", unwinder=False)

    stage.until_over()

    assert not stage.unwinder_ran.exists()


# --- identities --------------------------------------------------------------------------


def test_a_process_with_a_recycled_pid_is_not_owned(stage):
    """The same pid with another start time is another process: not alive, never signalled."""
    stage.deploy("runs")
    recycled = Identity(
        stage.supervisor.boot_id, stage.supervisor.pid, stage.supervisor.started + 1
    )

    assert not stage.processes.is_alive(recycled)
    assert not stage.processes.signal(recycled, signal.SIGKILL)
    assert stage.processes.is_alive(stage.supervisor)


def test_a_process_of_another_boot_is_dead(stage):
    stage.deploy("runs")
    before = Identity("another-boot", stage.supervisor.pid, stage.supervisor.started)

    assert not stage.processes.is_alive(before)
    assert not stage.processes.signal(before, signal.SIGKILL)


def test_the_orchestrator_is_alive_and_outside_the_agent(stage):
    stage.deploy("runs")
    me = stage.processes.identify(os.getpid())

    assert me is not None
    assert stage.processes.is_alive(me)
    assert not stage.processes.includes_self(stage.selector)


def test_a_pid_beyond_the_maximum_identifies_no_process(stage):
    assert None is stage.processes.identify(2**22 + 1)


def test_a_watch_reports_that_nothing_happened(stage):
    stage.deploy("runs")

    seen = stage.processes.watch(stage.supervisor, timeout_s=0.05, fd=stage.news)

    assert (False, False) == (seen.readable, seen.exited)
