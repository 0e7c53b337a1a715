"""
Sweeps while tmux servers, sweepers and disks fail: on real tmux, unless a test names the fake.

After any failure, leftovers are found and ended once. Foreign processes and files stay.
"""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.effects import Fails
from support.fakes import a_fake_scene
from support.needs import may_create_cgroups
from support.world import wait_for_deaths

from orchestrator_core import FindingKind, Orchestrator
from orchestrator_core.operations.doctor import examine
from orchestrator_core.system.boot import boot_id
from orchestrator_core.system.processes import Identity, exit_record

pytestmark = pytest.mark.tmux

#: A script that ignores SIGHUP, and ends on SIGTERM.
DEAF = "import signal, time; signal.signal(1, signal.SIG_IGN); print('ready'); time.sleep(1000)"
HUP_PROOF = (sys.executable, "-c", DEAF)


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("swept").id


def deploy(scene, orch, task, count, *command):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda _: orch.deploy(task, scene.spec(*command)).id, range(count)))


def kill_supervisors(scene, agents):
    """Kill them with SIGKILL, before they can react."""
    supervisors = [pid for agent in agents for pid in scene.world.panes(agent)]
    for pid in supervisors:
        os.kill(pid, signal.SIGKILL)
    wait_for_deaths(supervisors, timeout_s=20)


# --- a server that is not reached -----------------------------------------------------------------


def lose(scene, how):
    """Remove the socket's file, as a cleaner of /tmp does; or edit its path in root.json."""
    path = scene.root / "root.json"
    document = json.loads(path.read_bytes())
    if how == "removed":
        Path(document["tmux_socket"]).unlink()
    else:
        document["tmux_socket"] += ".new"
        path.write_text(json.dumps(document))


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_no_agent_is_ended_for_a_server_that_is_not_reached(how, scene, orch, task):
    """Supervisors that live and have their terminals contradict "no server"."""
    agents = sorted(deploy(scene, orch, task, 2))
    server = scene.world.server()
    panes = [pid for agent in agents for pid in scene.world.panes(agent)]
    lose(scene, how)
    orch = scene.orchestrator(recover=False)

    report = orch.sweep()
    [check] = [check for check in examine(scene.root) if check.name == "tmux socket"]
    reaping = orch.sweep(reap=True)

    assert ([], [], ()) == ([*report.findings], [*reaping.findings], reaping.reaped)
    assert agents == sorted(reaping.alive)
    assert f"kill -USR1 {server}" in report.unknown[0]
    assert ("failed", True) == (check.verdict.value, f"kill -USR1 {server}" in check.remedy)
    os.kill(server, 0)
    assert all(psutil.pid_exists(pid) for pid in panes)
    assert agents == sorted(agent.id for agent in orch.agents(status="active"))


def test_a_server_that_does_not_answer_costs_one_timeout_a_pass(scene, orch, task):
    """Whatever the number of lost agents; what is unknown is finished when it answers again."""
    agents = deploy(scene, orch, task, 4)
    server = scene.world.server()
    supervisors = [pid for agent in agents for pid in scene.world.panes(agent)]
    os.kill(server, signal.SIGSTOP)
    try:
        for pid in supervisors:
            os.kill(pid, signal.SIGKILL)
        wait_for_deaths(supervisors, timeout_s=20)
        orch = scene.orchestrator(recover=False, terminal_timeout_s=3)
        took = [
            _seconds(lambda: orch.recover(force=True)),
            _seconds(lambda: orch.sweep(reap=True)),
        ]
    finally:
        os.kill(server, signal.SIGCONT)

    assert all(3 <= seconds < 8 for seconds in took), took
    assert set() == {*agents} - {*orch.recover(force=True).unwound}
    assert [] == scene.world.leftovers()


def _seconds(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_reaping_sweep_lets_a_server_make_its_removed_socket_anew(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    socket = Path(json.loads((scene.root / "root.json").read_bytes())["tmux_socket"])
    lose(scene, "removed")

    assert not orch.sweep(reap=True).clean

    deadline = time.monotonic() + 20
    while not socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert orch.sweep(reap=True).clean
    assert [f"agent_{agent}"] == scene.world.sessions()
    orch.terminate(agent)


def test_a_reaping_sweep_never_takes_the_socket_of_a_second_server(scene, orch, task):
    """A deployment has started it meanwhile; with SIGUSR1 the first would replace its socket."""
    first = orch.deploy(task, scene.spec()).id
    [pane] = scene.world.panes(first)
    lose(scene, "removed")
    second = orch.deploy(task, scene.spec()).id
    try:
        assert () == orch.sweep(reap=True).reaped
        assert [f"agent_{second}"] == scene.world.sessions()
        assert first in orch.sweep().unknown[0]
        assert orch.terminate(first).success
        wait_for_deaths([pane], timeout_s=20)
        assert orch.sweep().clean
    finally:
        orch.terminate(second)


def test_an_agent_whose_journal_was_removed_keeps_its_life_and_its_end(scene, orch, task):
    """The sweep writes the journal anew; the supervisor finds it, and unwinds the agent later."""
    gate = scene.gate("gate")
    agent = orch.deploy(task, scene.spec("sh", "-c", f"read word < {gate}; exit 3")).id
    [supervisor] = scene.world.panes(agent)
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()

    [reaped] = orch.sweep(reap=True).reaped

    assert (True, "it has a journal again") == (reaped.success, reaped.message)
    assert [supervisor] == scene.world.panes(agent)
    assert (agent,) == orch.sweep().alive
    scene.let_go("gate")
    end = orch.wait(agent, timeout_s=30)
    assert ("failed", 3, True) == (end.status, end.exit_code, end.success)
    assert [] == scene.world.leftovers()


# --- killed --------------------------------------------------------------------------------------


def test_processes_that_survive_a_killed_tmux_server_are_found_and_ended(scene, orch, task):
    """The server and 20 supervisors are killed; agents that ignore SIGHUP still have cookies."""
    agents = deploy(scene, orch, task, 20, *HUP_PROOF)
    supervisors = [pid for agent in agents for pid in scene.world.panes(agent)]
    server = scene.world.server()
    # At the server's end, SIGHUP would make the supervisors end their agents.
    os.kill(server, signal.SIGSTOP)
    for pid in (*supervisors, server):
        os.kill(pid, signal.SIGKILL)
    wait_for_deaths([server, *supervisors], timeout_s=20)
    assert [] == scene.world.sessions()

    report = orch.sweep(reap=True)

    assert set(agents) == {one.finding.agent_id for one in report.reaped if one.success}
    assert [] == [each.what for each in report.findings if each.kind is not FindingKind.LOST]
    # With the supervisors dead, only a cgroup proves that nothing is alive.
    proven = {one.end.verified_no_zombies for one in report.reaped}
    assert {may_create_cgroups()} == proven
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()
    assert orch.sweep().clean


def test_the_reap_of_a_killed_sweeper_is_finished_by_the_next_sweep(scene, orch, task, actors):
    """The sweeper is killed between two effects of a reap."""
    agents = deploy(scene, orch, task, 3)
    kill_supervisors(scene, agents)
    outcome = actors.do("sweep", root=str(scene.root), kill_at=("rename ", "after"))
    assert outcome["killed"]
    assert not orch.sweep().clean

    orch.sweep(reap=True)

    assert orch.sweep().clean
    assert [] == scene.world.leftovers() + scene.world.torn()
    assert {"error"} == {orch.agent(agent).status for agent in agents}


def test_concurrent_ends_by_sweeps_orchestrators_and_the_agents_report_are_one_end(
    scene, orch, task
):
    """Threads and processes end one agent at the same time: one unwinding, and equal reports."""
    env = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))}
    scene.gate("go")
    report = f"{sys.executable} -m orchestrator_core progress --status completed"
    spec = scene.spec("sh", "-c", f"read go < go; {report}; sleep 1000", env=env)
    agent = orch.deploy(task, spec).id
    ready = threading.Barrier(4)

    def at_once(act):
        ready.wait()
        return act()

    with ThreadPoolExecutor(4) as pool:
        ends = [
            pool.submit(at_once, lambda: scene.orchestrator().terminate(agent).to_dict()),
            pool.submit(at_once, lambda: scene.orchestrator().terminate(agent).to_dict()),
        ]
        sweep = pool.submit(at_once, lambda: scene.orchestrator().sweep(reap=True))
        command = pool.submit(at_once, lambda: scene.let_go("go"))
        sweep.result()
        command.result()
        ends = [end.result() for end in ends]

    final = orch.wait(agent, timeout_s=20).to_dict()
    reported = {json.dumps(without_times(end)) for end in (*ends, final) if not end["handed_over"]}
    assert 1 == len(reported)
    assert 1 == [line["kind"] for line in scene.world.journal(agent)].count("unwind")
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()


def without_times(end):
    return {name: value for name, value in end.items() if name not in ("steps", "duration_ms")}


# --- foreign ------------------------------------------------------------------------------------


def test_a_foreign_process_with_a_recycled_pid_is_not_touched(scene, orch, task):
    """Another process has the pid of the supervisor that the journal names."""
    agent = deploy(scene, orch, task, 1)[0]
    kill_supervisors(scene, [agent])
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        path = scene.root / "sagas" / f"{agent}.jsonl"
        recorded = orch.history(agent).frame("spawn_tmux").load().supervisor
        taken = Identity(boot_id(), stranger.pid, recorded.started)
        rewrite(path, recorded, taken)

        report = orch.sweep(reap=True)

        assert [agent] == [one.finding.agent_id for one in report.reaped if one.success]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert [] == scene.world.leftovers()


def rewrite(path, was, becomes):
    """Replace the supervisor's pid in a journal."""
    before, after = (f'"pid":{process.pid}'.encode() for process in (was, becomes))
    lines = []
    for line in path.read_bytes().splitlines():
        body = line.rpartition(b',"crc":')[0].replace(before, after)
        lines.append(b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    path.write_bytes(b"".join(lines))


def test_two_roots_of_one_machine_do_not_sweep_each_other(scene, orch, task, short_tmp):
    """Both have the same user; only a mark with the root's own id counts."""
    other = Orchestrator(short_tmp / "other")
    foreign_agent = other.deploy(other.create_task("theirs").id, scene.spec()).id
    own_agent = deploy(scene, orch, task, 1)[0]
    kill_supervisors(scene, [own_agent])
    try:
        report = orch.sweep(reap=True)

        assert {own_agent} == {finding.agent_id for finding in report.findings}
        assert (foreign_agent,) == other.sweep().alive
        assert other.sweep().clean
    finally:
        assert other.terminate(foreign_agent).success
        server = ["tmux", "-S", str(short_tmp / "other" / "tmux.sock"), "kill-server"]
        subprocess.run(server, check=False, capture_output=True)


def test_a_persons_session_with_an_agents_name_is_not_touched(scene, orch, task):
    """The session is on the root's own server; its name is no proof."""
    agent = deploy(scene, orch, task, 1)[0]
    scene.world.tmux("new-session", "-d", "-s", "agent_a-101010-abcdef", "sleep 1000")
    before = scene.world.sessions()

    assert orch.sweep(reap=True).clean

    assert before == scene.world.sessions()
    assert orch.terminate(agent).success
    assert ["agent_a-101010-abcdef"] == scene.world.sessions()


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [-86400, 86400])
def test_a_change_of_the_clock_ends_no_agent(by_s, scene, orch, task, monkeypatch):
    """Deadlines use the boot-time clock; a time in the future counts as now."""
    agent = orch.deploy(task, scene.spec(deadline_s=3600, silent_after_s=10**6)).id
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by_s)

    report = orch.sweep(reap=True)

    assert ((), (agent,)) == (report.reaped, report.alive)
    monkeypatch.undo()
    assert orch.terminate(agent).success


def test_a_sweep_enforces_a_deadline_that_a_stopped_supervisor_does_not(
    scene, orch, task, monkeypatch
):
    """The clock is moved past the deadline, so that the supervisor cannot be faster."""
    agent = orch.deploy(task, scene.spec(deadline_s=3600)).id
    [supervisor] = scene.world.panes(agent)
    os.kill(supervisor, signal.SIGSTOP)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 3600)

    report = orch.sweep(reap=True)

    assert ["overdue"] == [finding.kind.value for finding in report.findings]
    assert "terminated" == orch.agent(agent).status
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers()


# --- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EROFS])
def test_leftovers_on_a_disk_that_refuses_writes_are_ended_by_a_later_sweep(refusal):
    """The disk is full, or read-only: the sweep reports it, and loses no finding."""
    with a_fake_scene() as scene:
        orch = scene.orchestrator()
        task = orch.create_task("swept").id
        agents = [orch.deploy(task, scene.spec()).id for _ in range(3)]
        scene.fake.reboot()
        with Fails(scene.fake, 0, refusal, times=math.inf):
            report = orch.sweep(reap=True)
        assert not report.clean

        orch.sweep(reap=True)

        assert orch.sweep().clean
        assert {"error"} == {orch.agent(agent).status for agent in agents}
        assert [] == scene.world.leftovers() + scene.world.torn()


# --- edits ---------------------------------------------------------------------------------------


def test_registries_edited_during_ends_and_sweeps_are_repaired_from_the_journals(scene, orch, task):
    """An editor replaces the task's registry again and again, without a lock."""
    agents = deploy(scene, orch, task, 4)
    path = scene.root / task / "AGENT_REGISTRY.json"
    stop = threading.Event()

    def edits():
        while not stop.is_set():
            document = json.loads(path.read_bytes())
            for each in document["agents"]:
                each["status"] = "completed" if each["status"] == "running" else "running"
            temporary = path.with_name("edited")
            temporary.write_text(json.dumps(document))
            temporary.replace(path)

    editor = threading.Thread(target=edits)
    editor.start()
    try:
        for agent in agents[:2]:
            orch.report_finding(agent, "while it was edited")
            orch.terminate(agent)
        orch.sweep(reap=True)
    finally:
        stop.set()
        editor.join()

    orch.sweep(reap=True)

    assert orch.sweep().clean
    assert set(agents[2:]) == {each.id for each in orch.agents(status="active")}
    for agent in agents[2:]:
        assert orch.terminate(agent).success
    orch.sweep(reap=True)
    # An edit of an ended record stays: no finding comes from it.
    assert [] == scene.world.leftovers()


def test_an_agent_whose_exit_record_cannot_be_read_is_left_alone_until_it_can(
    scene, orch, task, monkeypatch
):
    """A link stands for a disk that does not answer. The agent is not recorded as lost."""
    agent = orch.deploy(task, scene.spec()).id
    kill_supervisors(scene, [agent])
    exit_file = scene.root / task / "run" / agent / "exit"
    exit_file.symlink_to("nowhere")

    with monkeypatch.context() as patch:
        patch.setattr(exit_record, "_TRANSIENT_ERRNOS", (errno.ELOOP,))
        report = orch.sweep(reap=True)
        orch.recover()
        assert () == report.reaped
        assert [one for one in report.unknown if "could not be read" in one]
        assert orch.agent(agent).is_active

    exit_file.unlink()
    assert [agent] == [*orch.recover().unwound]
    assert [] == scene.world.leftovers()
