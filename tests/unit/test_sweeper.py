"""The resident sweeper on cheap agents: its events, its errors and its costs."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from saga_kit import policy

from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import InvalidInput, LockTimeout, StorageError
from orchestrator_core.model.spec import deadline_labels, is_past_deadline
from orchestrator_core.operations.daemon import event_loop, watch_list
from orchestrator_core.operations.daemon.file_events import DirectoryEvents
from orchestrator_core.operations.sweeper import Sweeper
from orchestrator_core.reconcile.sweep import saga_snapshot as journals
from orchestrator_core.reconcile.sweep.findings import Finding, FindingKind, SweepReport
from orchestrator_core.saga import Outcome, Presence, Sagas, Unwind
from orchestrator_core.system.event_reader import wait_readable
from orchestrator_core.system.processes import exit_record, identity

LONG_S = 20
NEVER_S = 3600.0
YEARS_S = 10 * 366 * 86400


class Sleeper:
    """A step with one process, which replaces an agent's supervisor."""

    receipt_type = SessionReceipt

    def plan(self, ctx):
        return SessionReceipt(session=ctx.saga_id, cookie=ctx.saga_id, exit_file="/nowhere")

    def do(self, receipt):
        return SessionReceipt(
            receipt.session,
            receipt.cookie,
            receipt.exit_file,
            supervisor=identity.identify(self.pid),
        )

    def undo(self, _receipt, _why):
        return Outcome.undone()

    def probe(self, _receipt):
        return Presence.UNKNOWN


class Root:
    """The part of an orchestrator that a sweeper uses, with a `sleep` for each agent."""

    def __init__(self, root):
        self.root = root
        (root / "registry").mkdir(parents=True)
        self.step = Sleeper()
        self.sagas = Sagas(root / "sagas", steps=[self.step])
        self.sleepers = {}
        self.recovered = queue.SimpleQueue()
        self.swept = queue.SimpleQueue()
        self.tidied = queue.SimpleQueue()
        self.on_gc = lambda: None
        self.on_recover = self.really_recover
        self.on_sweep = SweepReport

    # --- what a sweeper calls

    def recover(self, agent_id):
        try:
            return self.on_recover(agent_id)
        finally:
            self.recovered.put(agent_id)

    def sweep(self, *, reap, silent_after_s):
        assert (True, None) == (reap, silent_after_s)
        try:
            return self.on_sweep()
        finally:
            self.swept.put(time.monotonic())

    def gc(self):
        self.tidied.put(time.monotonic())
        self.on_gc()

    def really_recover(self, agent_id):
        return self.sagas.recover(only=agent_id, policy=policy(decide_end=self._decide_end))

    def _decide_end(self, history):
        receipt = history.frame("spawn_tmux").load()
        if identity.is_alive(receipt.supervisor) and not is_past_deadline(history.labels):
            return None
        return Unwind.terminal("over", status="error")

    # --- the agents

    def sleeper(self, agent_id):
        if agent_id not in self.sleepers:
            self.sleepers[agent_id] = subprocess.Popen(["sleep", "1000"])
        return self.sleepers[agent_id]

    def begin(self, agent_id, deadline_s=None):
        self.step.pid = self.sleeper(agent_id).pid
        labels = deadline_labels(deadline_s)
        return self.sagas.begin(agent_id, [self.step], labels=labels)

    def deploy(self, agent_id, **how):
        with self.begin(agent_id, **how) as saga:
            saga.run()
            saga.commit()

    def kill(self, agent_id):
        self.sleepers[agent_id].kill()
        self.sleepers[agent_id].wait()

    def until_closed(self, *agent_ids):
        """Return when the sagas are closed."""
        closed = self.root / "sagas" / "closed"
        with contextlib.closing(DirectoryEvents(closed)) as events:
            while [each for each in agent_ids if not (closed / f"{each}.jsonl").exists()]:
                assert wait_readable([events.fd], time.monotonic() + LONG_S), agent_ids
                events.read()

    def close(self):
        for process in self.sleepers.values():
            process.kill()
            process.wait()


@pytest.fixture
def root(tmp_path):
    made = Root(tmp_path / "ws")
    yield made
    made.close()


@pytest.fixture
def sweeper_of(root):
    """Start sweepers, and stop them after the test."""
    with contextlib.ExitStack() as stack:

        def start(**how):
            how.setdefault("interval_s", NEVER_S)
            return stack.enter_context(Sweeper(root, **how))

        yield start


def next_event(events):
    """Return the next event."""
    return events.get(timeout=LONG_S)


def all_now(events):
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(events.get_nowait())
    return found


# --- events ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_dead_agent_is_unwound_at_once(root, sweeper_of, when):
    """The agent or the sweeper may be first, and no timer is involved."""
    if when == "before":
        root.deploy("a-1")
    sweeper_of()
    if when == "while":
        root.deploy("a-1")

    root.kill("a-1")

    root.until_closed("a-1")
    assert "a-1" == next_event(root.recovered)


def test_an_agent_that_died_before_the_start_is_unwound_at_the_start(root, sweeper_of):
    root.deploy("a-1")
    root.kill("a-1")

    sweeper_of()

    root.until_closed("a-1")


def test_a_dead_owner_is_noticed_by_its_lock(root, sweeper_of):
    """The saga of a killed deployer is undone at once, and not before its death."""
    root.sleeper("a-1")
    reader, writer = os.pipe()
    deployer = os.fork()
    if not deployer:
        try:
            root.begin("a-1").run()
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.read(reader, 1)
        sweeper_of()
        next_event(root.swept)
        assert [] == all_now(root.recovered)
    finally:
        os.kill(deployer, signal.SIGKILL)
        os.waitpid(deployer, 0)
        os.close(reader)
        os.close(writer)

    root.until_closed("a-1")


def test_an_ended_agent_is_no_longer_watched(root, sweeper_of):
    """The sweeper closes the handle on the supervisor, whichever process unwinds the saga."""
    sweeper_of()
    next_event(root.swept)
    before = _descriptors()
    root.deploy("a-1")

    root.sagas.unwind("a-1", Unwind.terminal("done", status="completed"))
    root.deploy("a-2")  # Its commit is an event after the first one's end.
    root.kill("a-2")
    root.until_closed("a-2")
    next_event(root.recovered)

    # Fewer are possible: an earlier test's objects close theirs at any time.
    assert _descriptors() <= before


def test_a_replaced_registry_causes_a_sweep(root, sweeper_of, monkeypatch):
    """Many events cause one later sweep, so that sweeps take a small share of the time."""
    monkeypatch.setattr(event_loop, "_MIN_PAUSE_S", 0.1)
    registry = root.root / "registry" / "GLOBAL_REGISTRY.json"
    sweeper_of()
    first = next_event(root.swept)
    for _ in range(20):
        (root.root / "new").write_text("{}")
        (root.root / "new").rename(registry)

    assert next_event(root.swept) - first >= 0.1
    assert [] == all_now(root.swept)


def test_a_heartbeat_causes_no_sweep(root, sweeper_of, monkeypatch):
    """The sweeper ignores its own writes to the watched directory."""
    monkeypatch.setattr(event_loop, "_MIN_PAUSE_S", 0.01)
    monkeypatch.setattr(event_loop, "_MAX_HEARTBEAT_S", 0.02)
    sweeper = sweeper_of()
    next_event(root.swept)

    with pytest.raises(queue.Empty):
        root.swept.get(timeout=0.3)

    assert sweeper.health().healthy


def test_a_sweeper_without_file_events_sweeps_and_reports_it(root, sweeper_of, monkeypatch):
    """A system without free watches is reported, and sweeps find the changes later."""

    def refuse(*_):
        raise OSError(24, "no more watches")

    monkeypatch.setattr(event_loop, "DirectoryEvents", refuse)
    sweeper = sweeper_of(interval_s=0.05)
    root.deploy("a-1")
    next_event(root.swept)
    next_event(root.swept)
    next_event(root.swept)

    root.kill("a-1")

    root.until_closed("a-1")
    assert sweeper.health().healthy
    assert "no file events" in sweeper.health().remarks[0]


@pytest.mark.parametrize("name", ["sagas", "registry"])
def test_a_replaced_directory_is_watched_again(root, sweeper_of, monkeypatch, name):
    """After the restore of a backup, the sweeper watches the new directory."""
    monkeypatch.setattr(event_loop, "_MIN_PAUSE_S", 0.1)
    sweeper_of()
    next_event(root.swept)
    being_written = shutil.ignore_patterns(".*.tmp")
    shutil.copytree(root.root / name, root.root / "copy", ignore=being_written)
    (root.root / name).rename(root.root / "old")
    (root.root / "copy").rename(root.root / name)
    next_event(root.swept)

    root.deploy("a-1")
    root.kill("a-1")

    root.until_closed("a-1")


# --- deadlines, and the clock ---------------------------------------------------------------------


def test_the_sweeper_enforces_a_deadline(root, sweeper_of, monkeypatch):
    monkeypatch.setattr(event_loop, "_DEADLINE_SLACK_S", 0.1)
    sweeper_of()

    root.deploy("a-1", deadline_s=0.2)

    root.until_closed("a-1")


@pytest.mark.parametrize("by_s", [YEARS_S, -YEARS_S], ids=["forward", "back"])
def test_a_change_of_the_clock_has_no_effect_on_deadlines(root, sweeper_of, monkeypatch, by_s):
    """No agent ends early, no deadline is missed, and no processor time is wasted."""
    monkeypatch.setattr(event_loop, "_DEADLINE_SLACK_S", 0.1)
    root.deploy("long", deadline_s=NEVER_S)
    root.deploy("short", deadline_s=0.5)
    sweeper = sweeper_of()
    next_event(root.swept)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by_s)
    began = time.process_time()

    root.until_closed("short")

    assert time.process_time() - began < 0.3
    assert ("long",) == root.really_recover("long").alive
    assert sweeper.health().healthy


# --- errors ---------------------------------------------------------------------------------------


def test_collections_are_repeated_after_an_error(root, sweeper_of, monkeypatch):
    """A failed collection does not prevent the next one."""

    def refuses():
        raise StorageError("the disk is full")

    monkeypatch.setattr(event_loop, "_GC_FIRST_S", 0.0)
    monkeypatch.setattr(event_loop, "_GC_EVERY_S", 0.05)
    root.on_gc = refuses
    sweeper_of()
    for _ in range(3):
        root.tidied.get(timeout=LONG_S)


def test_a_failed_sweep_is_reported_and_repeated(root, sweeper_of, caplog):
    def refuse():
        raise StorageError("the disk is gone")

    root.on_sweep = refuse
    sweeper = sweeper_of(interval_s=0.1)
    times = [next_event(root.swept) for _ in range(4)]
    unhealthy = sweeper.health()
    root.on_sweep = SweepReport
    next_event(root.swept)
    next_event(root.swept)

    assert not unhealthy.healthy
    assert "the disk is gone" in unhealthy.problems[0]
    # The first wait is the interval. Each later one is twice the last: 0.1, 0.2, 0.4 s.
    waits = [after - before for before, after in itertools.pairwise(times)]
    # A busy machine makes a wait longer, and none shorter.
    assert all(wait > 0.09 * 2**number for number, wait in enumerate(waits)), waits
    assert sweeper.health().healthy
    assert {"sweeper.failed"} == {r.message for r in caplog.records if r.levelname == "WARNING"}


def test_a_failed_recovery_is_repeated_only_by_the_next_sweep(root, sweeper_of):
    """Further events do not repeat the failed recovery."""

    def refuse(_):
        raise StorageError("the disk is gone")

    root.on_recover = refuse
    sweeper = sweeper_of()
    next_event(root.swept)
    root.deploy("a-1")
    root.kill("a-1")
    next_event(root.recovered)
    for number in range(5):
        root.deploy(f"b-{number}")  # Each of them is a file event.

    with pytest.raises(queue.Empty):
        root.recovered.get(timeout=0.3)
    sweeper.stop()
    assert 1 == sweeper.health().heartbeat.errors
    assert 1 == sweeper.health().heartbeat.reactions


def test_a_saga_with_a_live_owner_is_left_alone(root, sweeper_of):
    """A live owner keeps its saga for any length of time."""
    saga = root.begin("a-1")
    saga.run()
    sweeper_of()
    next_event(root.swept)
    with pytest.raises(queue.Empty):
        root.recovered.get(timeout=0.3)
    saga.commit()
    saga.release()

    root.kill("a-1")

    root.until_closed("a-1")


def test_a_hung_sweep_is_reported_and_reactions_go_on(root, sweeper_of):
    """A hung job makes the sweeper unhealthy, and delays no other job."""
    go_on = threading.Event()
    root.on_sweep = lambda: go_on.wait(LONG_S) and SweepReport()
    sweeper = sweeper_of(hang_s=0.1)
    root.deploy("a-1")
    root.kill("a-1")
    root.until_closed("a-1")
    with contextlib.closing(DirectoryEvents(root.root / "registry")) as events:
        while sweeper.health().healthy:
            assert wait_readable([events.fd], time.monotonic() + LONG_S)
            events.read()

    assert "sweep has run for" in sweeper.health().problems[0]
    began = time.monotonic()
    assert sweeper.stop()
    assert time.monotonic() - began < 1.5
    go_on.set()


def test_an_internal_error_neither_ends_the_sweeper_nor_makes_it_spin(
    root, sweeper_of, monkeypatch
):
    """The sweeper ignores events for a pause, and goes on."""
    monkeypatch.setattr(event_loop, "_ERROR_PAUSE_S", 0.3)
    calls = []

    def fail(*_):
        calls.append(time.monotonic())
        raise RuntimeError("a defect")

    sweeper = sweeper_of()
    next_event(root.swept)
    monkeypatch.setattr(event_loop.EventLoop, "_on_file_event", fail)
    root.deploy("a-1")
    root.deploy("a-2")
    root.sagas.unwind("a-2", Unwind.terminal("done", status="completed"))
    with pytest.raises(queue.Empty):
        root.recovered.get(timeout=0.7)

    assert 1 <= len(calls) <= 3
    assert sweeper.is_running


# --- one at a time --------------------------------------------------------------------------------


def test_a_root_has_at_most_one_sweeper(root, sweeper_of):
    first = sweeper_of()

    with pytest.raises(LockTimeout, match=f"pid {os.getpid()}"):
        Sweeper(root).start()
    first.stop()

    assert sweeper_of().is_running


def test_a_stop_is_quick_and_can_be_repeated(root):
    sweeper = Sweeper(root, interval_s=NEVER_S)
    assert sweeper.stop()
    sweeper = Sweeper(root, interval_s=NEVER_S).start()
    next_event(root.swept)
    began = time.monotonic()

    assert sweeper.stop()
    assert sweeper.stop()

    assert time.monotonic() - began < 0.5
    assert not sweeper.is_running
    assert "stopped on request" in sweeper.health().problems[0]


def test_a_stop_lets_a_running_recovery_finish(root, sweeper_of, monkeypatch):
    """The stopping sweeper waits for a running job, and starts no other."""
    monkeypatch.setattr(event_loop, "_MAX_JOBS", 1)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(agent_id):
        begun.set()
        go_on.wait(LONG_S)
        return root.really_recover(agent_id)

    root.on_recover = slowly
    sweeper = sweeper_of()
    next_event(root.swept)
    root.deploy("a-1")
    root.deploy("a-2")
    root.kill("a-1")
    begun.wait(LONG_S)
    root.kill("a-2")
    threading.Timer(0.2, go_on.set).start()

    assert sweeper.stop()

    assert ["a-2"] == root.sagas.journals.ids()
    assert ["a-1"] == all_now(root.recovered)


def test_the_old_names_of_the_stop_methods_warn(root):
    sweeper = Sweeper(root)

    with pytest.warns(DeprecationWarning, match="Sweeper.request_stop"):
        sweeper.ask_to_stop()
    with pytest.warns(DeprecationWarning, match="Sweeper.stop_on_signals"), sweeper.ended_by():
        pass


def test_an_invalid_interval_is_refused(root):
    for how in ({"interval_s": 0}, {"interval_s": float("nan")}, {"hang_s": -1}):
        with pytest.raises(InvalidInput):
            Sweeper(root, **how)


# --- reports --------------------------------------------------------------------------------------


def test_findings_are_in_the_heartbeat_of_a_healthy_sweeper(root, sweeper_of):
    reports = []
    finding = Finding(kind=FindingKind.SILENT, subject="agent a-1", what="a-1 says nothing")
    root.on_sweep = lambda: SweepReport(findings=(finding,), unknown=("tmux",))
    sweeper = sweeper_of(on_sweep=reports.append)
    next_event(root.swept)
    sweeper.stop()

    last = sweeper.health().heartbeat.last_sweep
    assert ({"silent": 1}, ("silent: a-1 says nothing",)) == (last.findings, last.told)
    assert ("tmux",) == last.unknown
    assert [finding] == list(reports[0].findings)


def test_a_callback_that_raises_stops_nothing(root, sweeper_of):
    def refuse(_):
        raise ValueError("not now")

    sweeper = sweeper_of(on_sweep=refuse, interval_s=0.05)

    next_event(root.swept)
    next_event(root.swept)
    next_event(root.swept)

    found = sweeper.health()
    assert found.healthy
    assert "on_sweep: ValueError: not now" == found.heartbeat.last_error
    assert found.heartbeat.last_sweep is not None


# --- costs ----------------------------------------------------------------------------------------


def test_two_hundred_agents_leave_no_descriptor_and_no_thread(root, sweeper_of):
    """The sweeper releases all resources of ended agents."""
    sweeper = sweeper_of()
    next_event(root.swept)
    before, threads = _descriptors(), set(threading.enumerate())
    for number in range(10):
        names = [f"a-{number}-{each}" for each in range(20)]
        for name in names:
            root.deploy(name)
        for name in names:
            root.kill(name)
        root.until_closed(*names)
        root.sleepers.clear()

    for _ in range(200):
        next_event(root.recovered)
    _join_finished_threads()

    assert _descriptors() <= before
    assert set() == set(threading.enumerate()) - threads
    assert sweeper.health().healthy


def _descriptors():
    """Return the number of open descriptors: the least of 50, because of heartbeats."""
    gc.collect()
    return min(len(list(Path("/proc/self/fd").iterdir())) for _ in range(50))


def _join_finished_threads():
    """Join the job threads."""
    for thread in threading.enumerate():
        if thread.name.startswith("sweeper: "):
            thread.join(LONG_S)


TOLD = """
import signal, threading, time
from pathlib import Path
from orchestrator_core.operations.sweeper import Sweeper
from orchestrator_core.testing import Scene

swept = threading.Event()
main = threading.main_thread().native_id

def rests():
    time.sleep(0.002)  # for the other thread to go on, if it can
    return Path(f"/proc/self/task/{main}/stat").read_text().rpartition(")")[2].split()[0] == "S"

def notify():
    swept.wait()
    while not all(rests() for _ in range(100)):
        pass
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

with Scene() as scene:
    sweeper = Sweeper(scene.orchestrator(), interval_s=1000, on_sweep=lambda _: swept.set())
    with sweeper.stop_on_signals(signal.SIGTERM):
        threading.Thread(target=notify, daemon=True).start()
        sweeper.run()
    print("ended")
"""


def test_a_signal_that_does_not_interrupt_the_wait_stops_the_sweeper():
    """For example a signal just before the wait, or one to another thread."""
    ran = subprocess.run(
        [sys.executable, "-c", TOLD], capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert (0, "ended\n", "") == (ran.returncode, ran.stdout, ran.stderr)


def test_a_live_supervisor_with_an_unreadable_exit_record_is_alive(tmp_path, monkeypatch):
    """A symlink replaces a failing disk. The sweep reports that it could not ask."""
    monkeypatch.setattr(exit_record, "_TRANSIENT_ERRNOS", (errno.ELOOP,))
    reports = tmp_path / "exit"
    reports.symlink_to("nowhere")
    watched = watch_list.WatchedAgent("a-1", -1, None, str(reports), contextlib.ExitStack())
    state = journals.SagaState(
        saga_id="a-1", receipt=SessionReceipt("s", "c", exit_file=str(reports))
    )

    assert watch_list.SagaCheck.ALIVE is watch_list._state(watched)
    assert "could not be read" in journals._with_details_unless_in((), state, None).unknown
