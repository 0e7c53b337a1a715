"""Legacy agents are proved, adopted and ended. Foreign processes and files stay."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from support import acts
from support.legacy_system import LIVES, a_legacy_scene, now
from support.world import wait_for_deaths

from orchestrator_core import CouldNotAsk, NotFound, TaskRunning, TerminalTimeout, WaitTimeout, cli
from orchestrator_core.deployment.steps import OpenLog, RegisterTask, WritePrompt
from orchestrator_core.operations.doctor import examine
from orchestrator_core.reconcile.legacy.default_server import DefaultServer
from orchestrator_core.reconcile.legacy.session_step import EndLegacySession
from orchestrator_core.reconcile.sweep.reap import _Reaper

pytestmark = pytest.mark.tmux

#: Not a multiple of 15 minutes: no time zone explains the difference.
EARLIER = (now() - timedelta(hours=3, minutes=7)).isoformat()


@pytest.fixture
def scene(monkeypatch):
    """A scene on which the default tmux server is a private one."""
    with a_legacy_scene() as made:
        monkeypatch.setenv("TMUX_TMPDIR", str(made.legacy.tmux_tmpdir))
        yield made


# --- ending -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracked", [True, False])
def test_a_live_agent_is_ended_completely_and_its_last_line_is_archived(scene, tracked):
    orch, task, agent = scene.running(tracked=tracked)
    end = orch.terminate(agent, reason="enough")
    assert (True, "terminated", True, True, True) == (
        end.success,
        end.status,
        end.tmux_session_killed,
        end.prompt_file_deleted,
        end.log_files_archived,
    )
    assert ("scan", False) == (end.method, end.verified_no_zombies)
    assert [] == scene.legacy.sessions()
    assert {} == scene.living()
    assert "started\nlast words\n" == scene.archived(task, agent)
    record = scene.legacy.record(task, agent)
    assert ("terminated", "enough") == (record["status"], record["termination_reason"])
    assert record["auto_cleanup_result"]["success"]
    assert agent not in scene.legacy.globally()["agents"]
    assert {"terminated": 1} == scene.legacy.globally()["ended"]
    assert end == orch.terminate(agent)


def test_processes_that_ignore_signals_or_leave_the_session_are_ended_too(scene):
    deaf = "trap '' HUP TERM; echo started; sleep 1000"
    stubborn = f"setsid sh -c {shlex.quote(deaf)} & {deaf}"
    orch, _, agent = scene.running(runs=stubborn)
    assert orch.terminate(agent).success
    assert {} == scene.living()


def test_a_log_can_be_deleted_instead(scene):
    orch, task, agent = scene.running()
    orch.terminate(agent, keep_logs=False)
    assert [] == scene.world.files(f"{task}/*/*{agent}*")


def test_unknown_fields_survive_the_end(scene):
    orch, task, agent = scene.running(review={"by": ["ä", 1], "round": 2}, model="x")
    before = scene.legacy.registry(task)
    orch.terminate(agent)
    after = scene.legacy.registry(task)
    own = ("review", "model", "prompt", "depth", "tracked_files", "started_at")
    assert {name: before["agents"][0][name] for name in own} == {
        name: after["agents"][0][name] for name in own
    }
    theirs = ("orchestration_guidance", "spiral_checks", "max_agents", "client_cwd", "priority")
    assert {name: before[name] for name in theirs} == {name: after[name] for name in theirs}
    assert (1, 0, 1) == tuple(
        after[name] for name in ("total_spawned", "active_count", "completed_count")
    )


def test_the_end_of_one_agent_leaves_the_others_as_they_are(scene):
    orch, task, agent = scene.running()
    other = scene.legacy.agent(task, runs=LIVES, status="reviewing")
    elsewhere = scene.legacy.task()
    scene.until_started(task, other)
    theirs = scene.legacy.record(task, other)
    untouched = scene.legacy.registry_file(elsewhere).read_bytes()
    orch.terminate(agent)
    assert [f"agent_{other}"] == scene.legacy.sessions()
    assert theirs == scene.legacy.record(task, other)
    assert untouched == scene.legacy.registry_file(elsewhere).read_bytes()
    assert [other] == [each.id for each in orch.agents(status="active")]


def test_children_end_with_their_parent(scene):
    orch, task, parent = scene.running()
    child = scene.legacy.agent(task, "fixer", runs=LIVES, parent=parent, depth=2)
    scene.until_started(task, child)
    end = orch.terminate(parent)
    assert [child] == [each.agent_id for each in end.children]
    assert [] == scene.legacy.sessions()
    assert "terminated" == scene.legacy.record(task, child)["status"]


def test_concurrent_ends_of_one_agent_are_one_end_with_one_report(scene):
    orch, _, agent = scene.running()
    start, ends = threading.Barrier(4), []

    def end():
        start.wait()
        ends.append(scene.orchestrator().terminate(agent, reason="many"))

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 == len(ends)
    assert all(end == ends[0] for end in ends)
    assert {"terminated": 1} == scene.legacy.globally()["ended"]
    assert "last words" in orch.read_output(agent)


# --- alive --------------------------------------------------------------------------------------


def test_a_legacy_agent_reports_and_is_ended_by_its_last_report(scene):
    orch, task, agent = scene.running()
    assert orch.report_progress(agent, "working", message="half", progress=50).recorded
    assert 50 == scene.legacy.record(task, agent)["progress"]
    receipt = orch.report_progress(agent, "completed", message="found it")
    assert receipt.recorded
    assert ("completed", True) == (receipt.end.status, receipt.end.success)
    progress = scene.root / task / "archive" / f"{agent}_progress.jsonl"
    reported = [json.loads(line)["message"] for line in progress.read_text().splitlines()]
    assert ["at it", "half", "found it"] == reported
    assert "completed" == scene.legacy.record(task, agent)["status"]
    late = orch.report_progress(agent, "working", message="late")
    assert (False, "completed") == (late.recorded, late.end.status)


def test_an_agent_that_reports_its_end_from_inside_gets_the_answer_before_the_end(scene):
    answer, gate = scene.work / "answer", scene.gate("go")
    script = (
        "import json, sys; from support import acts; "
        f"reported = acts.report({str(scene.root)!r}, sys.argv[1]); "
        f"open({str(answer)!r}, 'w').write(json.dumps(reported)); "
        "print('answered', flush=True)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    runs = (
        f"echo started; read agent <{gate}; export PYTHONPATH={shlex.quote(path)}; "
        f'{sys.executable} -c {shlex.quote(script)} "$agent"; sleep 1000'
    )
    orch, task, agent = scene.running(runs=runs)
    panes = scene.legacy.panes(f"agent_{agent}")
    Path(gate).write_text(f"{agent}\n")
    wait_for_deaths(panes, timeout_s=20)
    end = orch.wait(agent, timeout_s=20)
    assert (True, "completed", "report") == (end.success, end.status, end.by)
    assert json.loads(answer.read_text())["end"]["handed_over"]
    assert "answered" in scene.archived(task, agent)
    assert {} == scene.world.until_alone()


def test_a_waiter_gets_the_end_of_an_agent_that_ends_by_itself_as_lost(scene):
    """Nothing shows how the agent ended: a missing session is no success."""
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0.05)
    assert "running" == scene.legacy.record(task, agent)["status"]
    scene.legacy.tmux("kill-session", "-t", f"=agent_{agent}")
    end = orch.wait(agent, timeout_s=10)
    assert (True, "error", "lost") == (end.success, end.status, end.by)
    assert "started" in scene.archived(task, agent)


def test_the_output_is_read_from_the_log_or_the_archive(scene):
    orch, task, agent = scene.running()
    assert "started\n" == orch.read_output(agent)
    log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
    log.rename(scene.root / task / "archive" / log.name)
    assert "started\n" == orch.read_output(agent)
    orch.terminate(agent)
    assert orch.read_output(agent).startswith("started\n")


# --- recorded ends ------------------------------------------------------------------------------


def test_a_live_agent_with_a_recorded_end_is_ended_with_that_status(scene):
    orch, task, agent = scene.running()
    scene.legacy.record_end(task, agent, "phase_completed")
    end = orch.terminate(agent)
    assert (True, "phase_completed", True) == (end.success, end.status, end.tmux_session_killed)
    assert ([], {}) == (scene.legacy.sessions(), scene.living())
    assert "phase_completed" == scene.legacy.record(task, agent)["status"]
    assert {"phase_completed": 1} == scene.legacy.globally()["ended"]


def test_an_agent_of_which_nothing_is_left_only_gets_a_report(scene):
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    scene.legacy.record_end(task, agent, "killed", termination_reason="too slow")
    for path in scene.root.glob(f"{task}/**/*{agent}*"):
        path.unlink()
    scene.legacy.edit_globally(lambda everything: everything["agents"].clear())
    before = scene.legacy.bytes()
    orch = scene.orchestrator()
    for end in (orch.terminate(agent), orch.wait(agent, timeout_s=0)):
        assert ("killed", "too slow", "old system", True) == (
            end.status,
            end.reason,
            end.by,
            end.success,
        )
    assert before == scene.legacy.bytes()
    assert [] == scene.world.files("sagas/*.jsonl")


# --- ownership ----------------------------------------------------------------------------------


def test_a_session_of_the_agents_name_from_another_time_is_foreign(scene):
    """The agent ended long ago; the session is a person's."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task, started_at=EARLIER)
    scene.legacy.tmux("new-session", "-d", "-s", f"agent_{agent}", "exec sleep 1000")
    [pane] = scene.legacy.panes(f"agent_{agent}")
    end = scene.orchestrator().terminate(agent)
    assert end.success
    assert [f"agent_{agent}"] == scene.legacy.sessions()
    assert pane in scene.living()
    assert "terminated" == scene.legacy.record(task, agent)["status"]


ELSEWHERE = "cd / && exec sleep 1000"
HALF_PROVED = {
    "it started at the right time, and works elsewhere": (None, ELSEWHERE),
    "it started at another time in this zone, and at the right one in another": (
        timedelta(hours=-2),
        ELSEWHERE,
    ),
    "the agent's start is unknown": ("yesterday", ELSEWHERE),
    "a process in it only reads the agent's log": (None, "cd / && exec tail -f {log}"),
    "a process in it only follows the agent's prompt": (None, "cd / && exec tail -f {prompt}"),
}


@pytest.mark.parametrize(("started_at", "runs"), HALF_PROVED.values(), ids=HALF_PROVED)
def test_a_session_with_its_name_as_the_only_proof_is_left_alone(scene, started_at, runs):
    task = scene.legacy.task()
    if isinstance(started_at, timedelta):
        started_at = (now() + started_at).isoformat()
    agent = scene.legacy.agent(task, **({"started_at": started_at} if started_at else {}))
    log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
    log.write_text("line\n")
    place = {"log": log, "prompt": scene.root / task / f"agent_prompt_{agent}.txt"}
    scene.legacy.tmux("new-session", "-d", "-s", f"agent_{agent}", runs.format(**place))
    before = scene.legacy.bytes()
    [pane] = scene.legacy.panes(f"agent_{agent}")
    orch = scene.orchestrator()
    for ask in (orch.terminate, lambda one: orch.wait(one, timeout_s=0)):
        with pytest.raises(CouldNotAsk, match="only its name"):
            ask(agent)
    assert [pane] == scene.legacy.panes(f"agent_{agent}")
    assert before == scene.legacy.bytes()
    assert [] == scene.world.files("sagas/*.jsonl")


def test_a_session_whose_name_only_begins_with_the_agents_name_is_foreign(scene):
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    scene.legacy.tmux("new-session", "-d", "-s", f"agent_{agent}0", "exec sleep 1000")
    assert scene.orchestrator().terminate(agent).success
    assert [f"agent_{agent}0"] == scene.legacy.sessions()


def test_a_new_session_of_the_name_during_the_end_is_not_touched(scene):
    """The server compares the session, and only then kills it."""
    orch, _, agent = scene.running()
    real = EndLegacySession._end_session

    def late(step, receipt):
        wait_for_deaths(scene.legacy.panes(receipt.session), timeout_s=10)
        scene.legacy.tmux("new-session", "-d", "-s", receipt.session, "exec sleep 1000")
        return real(step, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndLegacySession, "_end_session", late)
        end = orch.terminate(agent)
    assert end.success
    assert [f"agent_{agent}"] == scene.legacy.sessions()
    assert 1 == len(scene.living())


def test_a_session_without_a_log_is_proved_by_its_start_and_its_directory(scene):
    """The agent's shell no longer has a pipeline that writes the log."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    scene.legacy.tmux("new-session", "-d", "-s", f"agent_{agent}", "exec sleep 1000")
    end = scene.orchestrator().terminate(agent)
    assert ([], {}) == (scene.legacy.sessions(), scene.living())
    proofs = next(step["detail"]["proofs"] for step in end.steps if step["step"] == "spawn_tmux")
    assert [True, True] == ["is recorded for it" in proofs[0], "works in" in proofs[1]]


def test_a_persons_pane_in_the_agents_session_is_not_touched(scene):
    """The agent's own pane is gone; a person opened the other one much later."""
    began = now() - timedelta(minutes=7)
    task = scene.legacy.task()
    agent = scene.legacy.agent(task, started_at=began.isoformat())
    name = f"agent_{agent}"
    scene.legacy.tmux("new-session", "-d", "-s", name, "exec sleep 1000")
    [pane] = scene.legacy.panes(name)
    real = DefaultServer.sessions

    def as_old_as_the_agent(server):
        created = int(began.astimezone().timestamp())
        return tuple(attrs.evolve(one, created=created) for one in real(server))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultServer, "sessions", as_old_as_the_agent)
        with pytest.raises(CouldNotAsk, match="only its name"):
            scene.orchestrator().terminate(agent)
    assert [pane] == scene.legacy.panes(name)


def test_a_copy_of_a_workspace_does_not_own_the_agents_of_the_original(scene):
    """The records are equal; the log is another file, the project another directory."""
    _, task, agent = scene.running()
    elsewhere = scene.place / "copy"
    elsewhere.mkdir()
    ignored = shutil.ignore_patterns("root.json", "sagas", "tmux.sock")
    shutil.copytree(scene.root, elsewhere / ".agent-workspace", ignore=ignored)
    copy = acts.opened(elsewhere / ".agent-workspace")
    copied = json.loads((elsewhere / ".agent-workspace" / task / "AGENT_REGISTRY.json").read_text())
    copied["client_cwd"] = str(elsewhere)
    (elsewhere / ".agent-workspace" / task / "AGENT_REGISTRY.json").write_text(json.dumps(copied))
    with pytest.raises(CouldNotAsk):
        copy.terminate(agent)
    assert [f"agent_{agent}"] == scene.legacy.sessions()


OUTSIDE = ["{place}/precious", "../../precious", "AGENT_REGISTRY.json", "logs/../../../precious"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_recorded_path_leads_to_a_file_that_is_not_the_agents(scene, name):
    task = scene.legacy.task()
    precious = scene.place / "precious"
    precious.write_text("mine")
    (scene.root / "precious").write_text("mine")
    target = name.format(place=scene.place)
    agent = scene.legacy.agent(
        task, tracked_files=dict.fromkeys(("prompt_file", "log_file", "progress_file"), target)
    )
    orch = scene.orchestrator()
    assert "mine" not in orch.read_output(agent)
    assert orch.terminate(agent).success
    assert "mine" == precious.read_text() == (scene.root / "precious").read_text()
    assert agent == scene.legacy.record(task, agent)["id"]


def test_a_log_recorded_elsewhere_in_its_task_is_archived_from_there(scene):
    task = scene.legacy.task()
    odd = scene.root / task / "output" / "a-121212-aaaaaa_stream.jsonl"
    odd.write_text("odd\n")
    agent = scene.legacy.agent(task, id="a-121212-aaaaaa", tracked_files={"log_file": str(odd)})
    scene.orchestrator().terminate(agent)
    assert "odd\n" == scene.archived(task, agent)


# --- agents that no registry lists ---------------------------------------------------------------


def unlisted(scene, *, runs=None):
    """Return a task, and an agent with files that the legacy system died before recording."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task, runs=runs)
    scene.legacy.edit(task, lambda document: document["agents"].clear())
    scene.legacy.edit_globally(lambda document: document["agents"].clear())
    return task, agent


def writes_its_log(scene, task, agent):
    """Start a process without a session that has the agent's log open."""
    log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
    with log.open("ab") as stream:
        return subprocess.Popen(["sleep", "1000"], stdout=stream)


def names_it(_scene, _task, agent):
    return subprocess.Popen(["sh", "-c", "sleep 1000; exit 0", agent])


@pytest.mark.parametrize("sign", ["session", writes_its_log, names_it])
def test_the_files_of_an_unlisted_agent_that_may_be_alive_are_never_touched(scene, sign):
    task, agent = unlisted(scene, runs=LIVES if sign == "session" else None)
    if sign == "session":
        scene.until_started(task, agent)
    living = [] if sign == "session" else [sign(scene, task, agent)]
    orch = scene.orchestrator()
    before = scene.legacy.bytes()
    try:
        report = orch.sweep(reap=True)

        assert ((), (), False) == (report.findings, report.reaped, report.clean)
        assert [agent in line for line in report.unknown] == [True]
        assert before == scene.legacy.bytes()
        assert ["agent_" + agent] * (sign == "session") == scene.legacy.sessions()
        with pytest.raises(CouldNotAsk, match=f"no registry lists an agent '{agent}'"):
            orch.terminate(agent)
        with pytest.raises(TaskRunning, match=agent):
            orch.export_task(task, scene.place / "task.tar", remove=True)
        assert before == scene.legacy.bytes()
    finally:
        for process in living:
            process.kill()
            process.wait()


def test_the_files_of_an_unlisted_agent_of_which_nothing_lives_are_archived(scene):
    _, agent = unlisted(scene)

    report = scene.orchestrator().sweep(reap=True)

    assert {agent} == {one.finding.agent_id for one in report.reaped if one.success}
    assert () == report.unknown


def test_a_listed_agent_without_a_session_that_a_process_names_is_unknown(scene):
    """Its session may be on a server that this process does not find."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    process = names_it(scene, task, agent)
    orch = scene.orchestrator()
    before = scene.legacy.bytes()
    try:
        report = orch.sweep(reap=True)
        assert ((), ()) == (report.findings, report.reaped)
        assert [True] == [agent in line and "names it" in line for line in report.unknown]
        assert before == scene.legacy.bytes()
    finally:
        process.kill()
        process.wait()

    assert [agent] == [one.finding.agent_id for one in orch.sweep(reap=True).reaped if one.success]


def test_a_server_that_cannot_be_asked_makes_an_unlisted_agent_unknown(scene):
    task, agent = unlisted(scene, runs=LIVES)
    scene.until_started(task, agent)
    before = scene.legacy.bytes()
    server = scene.legacy.server()
    os.kill(server, signal.SIGSTOP)
    try:
        report = scene.orchestrator(terminal_timeout_s=0.3).sweep(reap=True)
    finally:
        os.kill(server, signal.SIGCONT)

    assert ((), True) == (report.reaped, any(agent in line for line in report.unknown))
    assert before == scene.legacy.bytes()


def test_a_root_with_the_database_of_a_newer_version_is_named_and_its_files_stay(scene, capsys):
    """The database may list any agent, and is not read."""
    _, agent = unlisted(scene)
    database = scene.root / "registry" / "state.sqlite3"
    database.write_bytes(b"SQLite format 3\0")
    before = scene.legacy.bytes()

    report = scene.orchestrator().sweep(reap=True)

    assert ((), ()) == (report.findings, report.reaped)
    assert [str(database) in report.unknown[0], agent in report.unknown[1]] == [True, True]
    assert before == scene.legacy.bytes()
    assert 4 == cli.main(["--root", str(scene.root), "ps"])
    shown = capsys.readouterr()
    assert ("no agents are known\n", True) == (shown.out, f"unknown: {database}" in shown.err)
    with pytest.raises(CouldNotAsk, match="another system may list it"):
        scene.orchestrator().terminate(agent)
    [check] = [check for check in examine(scene.root) if check.name == "registries"]
    assert ("warning", True) == (check.verdict.value, str(database) in check.found)


# --- faults -------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_counts_as_unknown(scene):
    _, _, agent = scene.running()
    before = scene.legacy.bytes()
    server = scene.legacy.server()
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(CouldNotAsk, match="did not answer"):
            scene.orchestrator(terminal_timeout_s=0.3).terminate(agent)
    finally:
        os.kill(server, signal.SIGCONT)
    assert before == scene.legacy.bytes()
    assert scene.orchestrator().terminate(agent).success


def test_an_agent_on_a_machine_without_tmux_is_unknown(scene, monkeypatch):
    _, _, agent = scene.running()
    before = scene.legacy.bytes()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(scene.work))
        with pytest.raises(CouldNotAsk, match="tmux"):
            scene.orchestrator().terminate(agent)
    assert before == scene.legacy.bytes()


def test_an_end_that_is_stuck_since_the_server_hangs_is_finished_later(scene):
    orch, task, agent = scene.running()

    def hang(_step, _receipt):
        raise TerminalTimeout("it hangs")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndLegacySession, "_end_session", hang)
        end = orch.terminate(agent)
    assert (False, "terminated") == (end.success, scene.legacy.record(task, agent)["status"])
    orch.recover(force=True)
    assert ([], {}) == (scene.legacy.sessions(), scene.living())
    assert orch.terminate(agent).success


def test_processes_that_survive_a_killed_server_are_found_by_the_log_they_write(scene):
    orch, task, agent = scene.running(deaf=True)
    server = scene.legacy.server()
    os.kill(server, signal.SIGKILL)
    wait_for_deaths([server], timeout_s=10)
    assert 4 == len(scene.living())
    assert orch.terminate(agent).success
    assert {} == scene.living()
    assert "started\nlast words\n" == scene.archived(task, agent)


@pytest.mark.parametrize("step", [EndLegacySession, OpenLog, WritePrompt, RegisterTask])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_end_that_was_killed_at_any_step_is_finished_by_recovery(scene, step, when):
    orch, task, agent = scene.running()
    child = os.fork()
    if child == 0:
        _die_at(step, when)
        with contextlib.suppress(BaseException):
            scene.orchestrator().terminate(agent, reason="half")
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert signal.SIGKILL == os.WTERMSIG(status)
    assert [agent] == list(orch.recover(force=True).unwound)
    assert ([], {}) == (scene.legacy.sessions(), scene.living())
    assert ("terminated", "half") == (
        scene.legacy.record(task, agent)["status"],
        scene.legacy.record(task, agent)["termination_reason"],
    )
    assert "started\nlast words\n" == scene.archived(task, agent)
    assert {"terminated": 1} == scene.legacy.globally()["ended"]


def _die_at(step, when):
    real = step.undo

    def undo(*args):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    step.undo = undo


def test_an_adopted_agent_stays_alive_until_it_ends_by_itself(scene):
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0)
    assert (agent,) == scene.orchestrator().recover().alive
    assert [f"agent_{agent}"] == scene.legacy.sessions()
    panes = scene.legacy.panes(f"agent_{agent}")
    scene.legacy.tmux("kill-session", "-t", f"=agent_{agent}")
    wait_for_deaths(panes, timeout_s=10)
    assert "error" == scene.orchestrator(recover=True).agent(agent).status
    assert "started" in scene.archived(task, agent)


def test_an_adopted_agent_keeps_an_end_that_the_legacy_system_records_later(scene):
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0)
    scene.legacy.record_end(task, agent, "killed", termination_reason="by the legacy system")
    panes = scene.legacy.panes(f"agent_{agent}")
    scene.legacy.tmux("kill-session", "-t", f"=agent_{agent}")
    wait_for_deaths(panes, timeout_s=10)
    end = orch.wait(agent, timeout_s=10)
    assert ("killed", "by the legacy system", "old system") == (end.status, end.reason, end.by)
    assert {"killed": 1} == scene.legacy.globally()["ended"]


def test_agents_with_names_that_tmux_refuses_are_listed_and_not_ended(scene):
    task = scene.legacy.task()
    agent = scene.legacy.agent(task, id="a-121212-aaaaaa", tmux_session="agent_a.b:c")
    odd = scene.legacy.agent(task, id="b.c-121212-bbbbbb")
    orch = scene.orchestrator()
    assert [agent, odd] == [each.id for each in orch.agents(status="active")]
    with pytest.raises(NotFound, match="cannot have had"):
        orch.terminate(agent)


# --- sweeps -------------------------------------------------------------------------------------


def swept(orch, **how):
    """Sweep; return the kinds of the findings by agent, and the report."""
    report = orch.sweep(**how)
    assert all(finding.is_old for finding in report.findings)
    return {finding.agent_id: finding.kind.value for finding in report.findings}, report


def test_a_sweep_distinguishes_live_lost_and_ended_agents_with_leftovers(scene):
    orch, task, living = scene.running()
    lost, over = scene.legacy.agent(task, started_at=EARLIER), scene.legacy.agent(task)
    leaves_on = scene.legacy.agent(task, runs=LIVES)
    scene.until_started(task, leaves_on)
    scene.legacy.record_end(task, leaves_on)
    scene.legacy.record_end(task, over)
    before = scene.legacy.bytes()
    found, report = swept(orch)
    assert {lost: "lost", over: "ended", leaves_on: "ended"} == found
    assert ((living,), ()) == (report.alive, report.unknown)
    assert all(finding.reapable for finding in report.findings)
    assert before == scene.legacy.bytes()

    found, report = swept(orch, reap=True)
    assert [True] * 3 == [reaped.success for reaped in report.reaped]
    assert [f"agent_{living}"] == scene.legacy.sessions()
    statuses = {agent: scene.legacy.record(task, agent)["status"] for agent in found}
    assert {lost: "error", over: "completed", leaves_on: "completed"} == statuses
    assert ({}, (living,)) == (swept(orch)[0], swept(orch)[1].alive)
    assert {"error": 1, "completed": 2} == scene.legacy.globally()["ended"]
    assert (4, 1, 3) == tuple(
        scene.legacy.registry(task)[name]
        for name in ("total_spawned", "active_count", "completed_count")
    )


def test_a_sweep_leaves_unproved_and_unknown_agents_alone(scene):
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    scene.legacy.tmux("new-session", "-d", "-s", f"agent_{agent}", ELSEWHERE)
    orch = scene.orchestrator(terminal_timeout_s=0.3)
    found, report = swept(orch, reap=True)
    assert {} == found
    assert [True] == ["only its name" in each for each in report.unknown]
    server = scene.legacy.server()
    os.kill(server, signal.SIGSTOP)
    try:
        found, report = swept(orch, reap=True)
    finally:
        os.kill(server, signal.SIGCONT)
    assert {} == found
    assert [True] == ["did not answer" in each for each in report.unknown]
    assert [f"agent_{agent}"] == scene.legacy.sessions()
    assert "running" == scene.legacy.record(task, agent)["status"]


def test_an_agent_that_comes_back_between_snapshot_and_reap_is_left_alone(scene):
    """The sweep found the agent lost; when it reaps, a process writes the agent's log."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    real = _Reaper.end_legacy

    def late(reaper, findings):
        log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
        scene.legacy.start(f"agent_{agent}", LIVES, log)
        scene.follow(log, until=b"started")
        return real(reaper, findings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Reaper, "end_legacy", late)
        found, report = swept(scene.orchestrator(), reap=True)
    assert {agent: "lost"} == found
    assert [False] == [reaped.success for reaped in report.reaped]
    assert [f"agent_{agent}"] == scene.legacy.sessions()
    assert "running" == scene.legacy.record(task, agent)["status"]


def test_a_sweep_asks_the_default_server_once_and_only_for_legacy_agents(scene):
    task = scene.legacy.task()
    calls = []
    real = DefaultServer.sessions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultServer, "sessions", lambda self: calls.append(1) or real(self))
        scene.orchestrator().sweep()
        assert 0 == len(calls)
        for _ in range(5):
            scene.legacy.agent(task)
        scene.orchestrator().sweep()
    assert 1 == len(calls)
