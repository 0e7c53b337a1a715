"""The fake beyond the contract: virtual time, failures by name, and the state of the world."""

from __future__ import annotations

import gc
import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator_core.exceptions import SessionExists, TerminalError, TerminalTimeout
from orchestrator_core.system.presence import Presence
from orchestrator_core.system.processes.protocol import (
    GracePeriods,
    Identity,
    OwnershipSelector,
    Survivor,
    WatchResult,
)
from orchestrator_core.testing import Exits, FakeTerminal, Runs

HOUR_S = 3600.0
RUNS = ["sleep", "1000"]


@pytest.fixture
def fake(fake_stage):
    return fake_stage.fake


# --- time --------------------------------------------------------------------------------


def test_an_hour_of_virtual_time_takes_no_real_time(fake_stage, fake):
    fake.agents["runs"] = Exits(7, after_s=HOUR_S)
    fake_stage.deploy("runs", unwinder=False)

    assert WatchResult(exited=True) == fake.processes.watch(
        fake_stage.supervisor, timeout_s=2 * HOUR_S
    )

    assert pytest.approx(HOUR_S) == fake.now
    assert (7, HOUR_S) == (fake_stage.exit()["code"], fake_stage.exit()["ran_s"])


def test_a_watch_waits_for_its_time_and_no_longer(fake_stage, fake):
    fake.agents["runs"] = Exits(0, after_s=HOUR_S)
    fake_stage.deploy("runs")
    began = fake.now

    assert WatchResult() == fake.processes.watch(fake_stage.supervisor, timeout_s=5)

    assert 5 == fake.now - began


def test_a_test_can_let_time_pass(fake_stage, fake):
    fake.agents["runs"] = Exits(0, after_s=HOUR_S)
    fake_stage.deploy("runs", unwinder=False)

    fake.pass_time(HOUR_S - 1)
    assert fake.alive()
    fake.pass_time(1)
    assert () == fake.alive()


# --- failures by name ------------------------------------------------------------------------


def test_a_call_can_fail_before_its_change(fake):
    fake.fail("start", TerminalTimeout("as asked"))

    with pytest.raises(TerminalTimeout, match="as asked"):
        fake.start("agent_1", owner="c1", argv=RUNS)

    assert () == fake.sessions()
    assert fake.start("agent_1", owner="c1", argv=RUNS)


def test_a_call_can_fail_after_its_change(fake):
    """The answer is lost, and the session is there."""
    fake.fail("start", TerminalError, after=True)

    with pytest.raises(TerminalError):
        fake.start("agent_1", owner="c1", argv=RUNS)

    assert ["agent_1"] == [session.name for session in fake.sessions()]


def test_a_call_can_fail_until_it_is_mended(fake):
    fake.fail("processes.terminate_all", PermissionError, times=math.inf)
    for _ in range(3):
        with pytest.raises(PermissionError):
            fake.processes.terminate_all(OwnershipSelector("c1"), GracePeriods())

    fake.mend()

    assert () == fake.processes.terminate_all(OwnershipSelector("c1"), GracePeriods()).survivors


def test_an_inspection_that_fails_returns_unknown(fake):
    fake.fail("inspect", TerminalError("could not be asked"))

    sighting = fake.inspect("agent_1", owner="c1")

    assert (Presence.UNKNOWN, "could not be asked") == (sighting.presence, sighting.why)
    assert Presence.ABSENT == fake.inspect("agent_1", owner="c1").presence


def test_an_interrupt_can_come_at_any_call(fake):
    fake.fail("kill", KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        fake.kill("agent_1", owner="c1")


NOBODY = Identity("nowhere", 1, 1)
CALLS = {
    "check": lambda fake: fake.check(),
    "start": lambda fake: fake.start("a", owner="c", argv=RUNS),
    "kill": lambda fake: fake.kill("a", owner="c"),
    "sessions": lambda fake: fake.sessions(),
    "processes.identify": lambda fake: fake.processes.identify(1),
    "processes.is_alive": lambda fake: fake.processes.is_alive(NOBODY),
    "processes.signal": lambda fake: fake.processes.signal(NOBODY, signal.SIGTERM),
    "processes.find_supervisor": lambda fake: fake.processes.find_supervisor(
        OwnershipSelector("c1", exit_file="/nowhere/exit")
    ),
    "processes.pane_of": lambda fake: fake.processes.pane_of(NOBODY),
    "processes.watch": lambda fake: fake.processes.watch(NOBODY, timeout_s=0),
    "processes.includes_self": lambda fake: fake.processes.includes_self(OwnershipSelector("c")),
    "processes.cgroup_path": lambda fake: fake.processes.cgroup_path("a"),
    "processes.create_cgroup": lambda fake: fake.processes.create_cgroup("a"),
    "processes.terminate_all": lambda fake: fake.processes.terminate_all(
        OwnershipSelector("c"), GracePeriods()
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_has_a_name_to_fail_by(fake, call):
    fake.fail(call, ZeroDivisionError)

    with pytest.raises(ZeroDivisionError):
        CALLS[call](fake)

    CALLS[call](fake)


# --- agents that do not go -------------------------------------------------------------------


def test_a_stray_is_found_by_its_cookie_outside_the_supervisors_tree(fake_stage, fake):
    fake.agents["runs"] = Runs(stray=True)
    fake_stage.deploy("runs")

    ending = fake_stage.end()

    assert () == fake.alive()
    assert ("subreaper", True, True) == (ending.method, ending.proven, ending.forced)


def test_a_stray_outlives_an_end_without_an_unwinder(fake_stage, fake):
    fake.agents["exits-0"] = Exits(0, stray=True)
    fake_stage.deploy("exits-0")

    fake_stage.until_over()

    assert [f"{fake_stage.place}/exits-0-stray"] == fake_stage.alive()


def test_an_unkillable_process_is_reported_after_a_bounded_wait(fake_stage, fake):
    fake.agents["runs"] = Runs(unkillable=True)
    fake_stage.deploy("runs")
    began = fake.now

    ending = fake_stage.end()

    [agent] = fake.alive()
    assert (Survivor(agent.pid, agent.name),) == ending.survivors
    assert not ending.proven
    assert not fake_stage.exit()["contained"]
    patience = fake_stage.patience
    assert fake.now - began <= patience.term_s + patience.kill_s + 1


def test_no_proof_outweighs_a_survivor(fake_stage, fake):
    """In the exit record the process tree is empty. The survivor is reported nevertheless."""
    fake.agents["exits-0"] = Exits(0, stray=True)
    fake_stage.deploy("exits-0")
    fake_stage.until_over()
    [stray] = fake.alive()
    stray.unkillable = True

    ending = fake_stage.end()

    assert fake_stage.exit()["contained"]
    assert (False, stray.pid) == (ending.proven, ending.survivors[0].pid)


def test_a_script_can_lose_its_supervisor(fake_stage, fake):
    fake.agents["runs"] = Runs(loses_supervisor_after_s=1)
    fake_stage.deploy("runs")

    fake.pass_time(1)

    assert () == fake.sessions()
    assert [f"{fake_stage.place}/runs"] == fake_stage.alive()
    ending = fake_stage.end()
    assert ("scan", False, ()) == (ending.method, ending.proven, ending.survivors)


def test_a_requested_end_is_recorded_however_the_agent_then_ends(fake_stage, fake):
    fake_stage.deploy("runs", unwinder=False)
    fake_stage.note("request")
    fake.processes.signal(fake_stage.supervisor, signal.SIGUSR1)

    fake.exit(fake_stage.name, 0)

    assert ("request", 0) == (fake_stage.exit()["cause"], fake_stage.exit()["code"])


# --- misfortune ------------------------------------------------------------------------------


def test_a_reboot_leaves_files_only(fake_stage, fake):
    fake_stage.deploy("runs")
    before = fake_stage.supervisor
    me = fake.processes.identify(os.getpid())

    fake.reboot()

    assert ((), ()) == (fake.sessions(), fake.alive())
    assert not fake.processes.is_alive(before)
    assert not fake.processes.is_alive(me)
    assert before.boot_id != fake.processes.identify(os.getpid()).boot_id
    assert not (fake_stage.run / "exit").exists()
    assert fake_stage.end().proven


def test_a_server_that_cannot_be_asked_is_unknown_and_loses_nothing(fake):
    session = fake.start("agent_1", owner="c1", argv=RUNS)
    fake.refuse("permission denied")

    for call in ("start", "kill", "sessions"):
        with pytest.raises(TerminalError, match="permission denied"):
            CALLS[call](fake)
    assert Presence.UNKNOWN == fake.inspect("agent_1", owner="c1").presence

    fake.resume()
    assert (session,) == fake.sessions()


def test_a_supervisor_does_not_wait_for_an_agent_that_is_gone(fake_stage, fake):
    """A supervisor within an agent's grace period notices the earlier end."""
    fake.agents["runs"] = Runs(ignores_term=True)
    fake_stage.deploy("runs")
    agent = next(p for p in fake.alive() if p.name.endswith("runs"))
    fake.processes.signal(fake_stage.supervisor, signal.SIGTERM)

    fake.processes.signal(fake.processes.identify(agent.pid), signal.SIGKILL)

    fake_stage.until_over()
    assert fake.now < fake_stage.patience.term_s


def test_the_agents_of_a_dead_server_get_sighup(fake_stage, fake):
    fake_stage.deploy("runs")

    fake.kill_server()

    fake_stage.until_over()
    assert () == fake.alive()
    assert "hangup" == fake_stage.exit()["cause"]


def test_a_test_can_control_an_agent(fake_stage, fake):
    fake_stage.deploy("runs", unwinder=False)

    fake.write(fake_stage.name, b"so far\n")
    fake.exit(fake_stage.name, 9)

    assert b"so far\n" == fake_stage.log.read_bytes()
    assert 9 == fake_stage.exit()["code"]
    assert () == fake.alive()


# --- the caller's identity ---------------------------------------------------------------------


def test_an_agent_does_not_end_itself(fake_stage, fake):
    """A termination from inside signals no process, and reports that."""
    fake_stage.deploy("runs")

    with fake.inside(fake_stage.name):
        assert fake.processes.includes_self(fake_stage.selector)
        ending = fake.processes.terminate_all(fake_stage.selector, GracePeriods())

    assert (0, False) == (ending.signalled, ending.proven)
    assert 2 == len(ending.survivors)
    assert not fake.processes.includes_self(fake_stage.selector)


def test_the_unwinder_is_the_supervisor_and_spares_itself(fake_stage, fake):
    seen = {}

    def unwind(argv):
        seen["argv"] = argv
        seen["inside"] = fake.processes.includes_self(fake_stage.selector)
        seen["session"] = fake.kill(fake_stage.name, owner=fake_stage.cookie)
        seen["ending"] = fake.processes.terminate_all(fake_stage.selector, GracePeriods())
        seen["alive"] = fake.alive()

    fake.unwinder = unwind
    fake_stage.deploy("exits-3")
    fake_stage.until_over()

    assert "/bin/sh" == seen["argv"][0]
    assert not seen["inside"]
    assert Presence.OURS == seen["session"]
    assert (True, ()) == (seen["ending"].proven, seen["ending"].survivors)
    assert [fake_stage.supervisor.pid] == [process.pid for process in seen["alive"]]
    assert () == fake.alive()


def test_a_launch_without_an_unwinder_calls_none(fake_stage, fake):
    called = []
    fake.unwinder = called.append
    fake_stage.deploy("exits-3", unwinder=False)

    fake_stage.until_over()

    assert [] == called


def test_an_unwinder_waits_for_the_lock(fake_stage, fake):
    fake_stage.deploy("exits-3")
    fake_stage.deployer = fake_stage.lock()

    fake.pass_time(HOUR_S)
    assert not fake_stage.unwinder_ran.exists()
    fake_stage.let_go()

    fake_stage.until_over()
    assert fake_stage.unwinder_ran.exists()


def test_an_unwinder_that_waits_is_ended_by_term(fake_stage, fake):
    fake_stage.deploy("exits-3")
    fake_stage.deployer = fake_stage.lock()
    fake.pass_time(HOUR_S)

    fake.processes.signal(fake_stage.supervisor, signal.SIGTERM)

    fake_stage.until_over()
    assert not fake_stage.unwinder_ran.exists()


def test_the_process_of_a_failing_unwinder_exits(fake_stage, fake):
    """A test finds the error in ``errors``; the process is gone."""
    fault = ValueError("the unwinder's own")

    def unwind(_argv):
        raise fault

    fake.unwinder = unwind
    fake_stage.deploy("exits-3")
    fake_stage.until_over()

    assert [fault] == fake.errors
    assert () == fake.alive()


# --- the fake itself --------------------------------------------------------------------------


def test_a_fake_pid_belongs_to_no_real_process():
    """A real signal to a fake pid reaches no process."""
    session = FakeTerminal().start("agent_1", owner="c1", argv=RUNS)

    with pytest.raises(ProcessLookupError):
        os.kill(session.pane_pid, 0)


def test_one_of_eight_threads_gets_the_session_name(fake):
    start_line = threading.Barrier(8)

    def start(number):
        start_line.wait()
        try:
            return fake.start("agent_1", owner=f"c{number}", argv=RUNS)
        except SessionExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert 1 == len([session for session in pool.map(start, range(8)) if session])


def test_a_dropped_world_leaves_no_descriptor(fake_stage):
    gc.collect()
    before = _descriptors()
    fake_stage.deploy("runs")

    fake_stage.close()
    fake_stage.news = -1
    fake_stage.terminal = fake_stage.processes = fake_stage.fake = None
    gc.collect()

    assert before == _descriptors()


def _descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def test_old_names_of_the_fake_are_the_new_ones():
    calls = []
    with pytest.warns(DeprecationWarning, match="unwinder"):
        fake = FakeTerminal(heir=calls.append)
    with pytest.warns(DeprecationWarning, match=r"FakeTerminal\.unwinder"):
        fake.heir = calls.extend
    with pytest.warns(DeprecationWarning, match="start_foreign_session"):
        fake.intrude("someone")

    assert (calls.extend, ["someone"]) == (fake.unwinder, [s.name for s in fake.sessions()])
