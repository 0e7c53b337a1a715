"""Agents that the old system has left: proved, adopted, ended; and never a stranger's."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from support import acts
from support.old_system import LIVES, an_old_scene, now
from support.world import wait_for_deaths

from orchestrator_core import CouldNotAsk, NotFound, TerminalTimeout, WaitTimeout
from orchestrator_core.deployment.steps import OpenLog, RegisterTask, WritePrompt
from orchestrator_core.reconcile.legacy.default_server import DefaultServer
from orchestrator_core.reconcile.legacy.session_step import EndLegacySession
from orchestrator_core.reconcile.sweep.reap import _Reaper

pytestmark = pytest.mark.tmux

#: To no whole quarter of an hour: no time zone explains it.
EARLIER = (now() - timedelta(hours=3, minutes=7)).isoformat()


@pytest.fixture
def scene(monkeypatch):
    """A scene on which the default tmux server is a private one."""
    with an_old_scene() as made:
        monkeypatch.setenv("TMUX_TMPDIR", str(made.old.tmux_tmpdir))
        yield made


# --- ending -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracked", [True, False])
def test_a_living_agent_is_ended_wholly_and_its_last_words_are_kept(scene, tracked):
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
    assert [] == scene.old.sessions()
    assert {} == scene.living()
    assert "started\nlast words\n" == scene.archived(task, agent)
    record = scene.old.record(task, agent)
    assert ("terminated", "enough") == (record["status"], record["termination_reason"])
    assert record["auto_cleanup_result"]["success"]
    assert agent not in scene.old.globally()["agents"]
    assert {"terminated": 1} == scene.old.globally()["ended"]
    assert end == orch.terminate(agent)


def test_whoever_ignores_the_hangup_or_leaves_the_session_is_ended_too(scene):
    deaf = "trap '' HUP TERM; echo started; sleep 1000"
    stubborn = f"setsid sh -c {shlex.quote(deaf)} & {deaf}"
    orch, _, agent = scene.running(runs=stubborn)
    assert orch.terminate(agent).success
    assert {} == scene.living()


def test_a_log_may_be_deleted_instead(scene):
    orch, task, agent = scene.running()
    orch.terminate(agent, keep_logs=False)
    assert [] == scene.world.files(f"{task}/*/*{agent}*")


def test_what_nobody_here_knows_survives_the_end(scene):
    orch, task, agent = scene.running(review={"by": ["ä", 1], "round": 2}, model="x")
    before = scene.old.registry(task)
    orch.terminate(agent)
    after = scene.old.registry(task)
    own = ("review", "model", "prompt", "depth", "tracked_files", "started_at")
    assert {name: before["agents"][0][name] for name in own} == {
        name: after["agents"][0][name] for name in own
    }
    theirs = ("orchestration_guidance", "spiral_checks", "max_agents", "client_cwd", "priority")
    assert {name: before[name] for name in theirs} == {name: after[name] for name in theirs}
    assert (1, 0, 1) == tuple(
        after[name] for name in ("total_spawned", "active_count", "completed_count")
    )


def test_an_end_among_others_leaves_the_others_as_they_are(scene):
    orch, task, agent = scene.running()
    other = scene.old.agent(task, runs=LIVES, status="reviewing")
    elsewhere = scene.old.task()
    scene.until_started(task, other)
    theirs = scene.old.record(task, other)
    untouched = scene.old.registry_file(elsewhere).read_bytes()
    orch.terminate(agent)
    assert [f"agent_{other}"] == scene.old.sessions()
    assert theirs == scene.old.record(task, other)
    assert untouched == scene.old.registry_file(elsewhere).read_bytes()
    assert [other] == [each.id for each in orch.agents(status="active")]


def test_children_end_with_their_parent(scene):
    orch, task, parent = scene.running()
    child = scene.old.agent(task, "fixer", runs=LIVES, parent=parent, depth=2)
    scene.until_started(task, child)
    end = orch.terminate(parent)
    assert [child] == [each.agent_id for each in end.children]
    assert [] == scene.old.sessions()
    assert "terminated" == scene.old.record(task, child)["status"]


def test_of_many_who_end_the_same_agent_one_does_and_all_get_its_report(scene):
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
    assert {"terminated": 1} == scene.old.globally()["ended"]
    assert "last words" in orch.read_output(agent)


# --- living -------------------------------------------------------------------------------------


def test_an_old_agent_reports_and_is_ended_by_its_own_last_report(scene):
    orch, task, agent = scene.running()
    assert orch.report_progress(agent, "working", message="half", progress=50).recorded
    assert 50 == scene.old.record(task, agent)["progress"]
    receipt = orch.report_progress(agent, "completed", message="found it")
    assert receipt.recorded
    assert ("completed", True) == (receipt.end.status, receipt.end.success)
    progress = scene.root / task / "archive" / f"{agent}_progress.jsonl"
    told = [json.loads(line)["message"] for line in progress.read_text().splitlines()]
    assert ["at it", "half", "found it"] == told
    assert "completed" == scene.old.record(task, agent)["status"]
    late = orch.report_progress(agent, "working", message="late")
    assert (False, "completed") == (late.recorded, late.end.status)


def test_from_inside_of_itself_it_gets_its_answer_and_is_ended_by_somebody_else(scene):
    answer, gate = scene.work / "answer", scene.gate("go")
    script = (
        "import json, sys; from support import acts; "
        f"told = acts.report({str(scene.root)!r}, sys.argv[1]); "
        f"open({str(answer)!r}, 'w').write(json.dumps(told)); "
        "print('answered', flush=True)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    runs = (
        f"echo started; read agent <{gate}; export PYTHONPATH={shlex.quote(path)}; "
        f'{sys.executable} -c {shlex.quote(script)} "$agent"; sleep 1000'
    )
    orch, task, agent = scene.running(runs=runs)
    panes = scene.old.panes(f"agent_{agent}")
    Path(gate).write_text(f"{agent}\n")
    wait_for_deaths(panes, timeout_s=20)
    end = orch.wait(agent, timeout_s=20)
    assert (True, "completed", "report") == (end.success, end.status, end.by)
    assert json.loads(answer.read_text())["end"]["handed_over"]
    assert "answered" in scene.archived(task, agent)
    assert {} == scene.world.until_alone()


def test_it_is_waited_for_and_one_that_ends_by_itself_is_lost(scene):
    """Nothing says how it ended: that its session is gone is no success."""
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0.05)
    assert "running" == scene.old.record(task, agent)["status"]
    scene.old.tmux("kill-session", "-t", f"=agent_{agent}")
    end = orch.wait(agent, timeout_s=10)
    assert (True, "error", "lost") == (end.success, end.status, end.by)
    assert "started" in scene.archived(task, agent)


def test_its_output_is_read_wherever_it_is(scene):
    orch, task, agent = scene.running()
    assert "started\n" == orch.read_output(agent)
    log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
    log.rename(scene.root / task / "archive" / log.name)
    assert "started\n" == orch.read_output(agent)
    orch.terminate(agent)
    assert orch.read_output(agent).startswith("started\n")


# --- ended already ------------------------------------------------------------------------------


def test_one_that_was_called_completed_and_lives_on_is_ended_with_that_status(scene):
    orch, task, agent = scene.running()
    scene.old.say_ended(task, agent, "phase_completed")
    end = orch.terminate(agent)
    assert (True, "phase_completed", True) == (end.success, end.status, end.tmux_session_killed)
    assert ([], {}) == (scene.old.sessions(), scene.living())
    assert "phase_completed" == scene.old.record(task, agent)["status"]
    assert {"phase_completed": 1} == scene.old.globally()["ended"]


def test_one_of_which_nothing_is_left_is_only_told_of(scene):
    task = scene.old.task()
    agent = scene.old.agent(task)
    scene.old.say_ended(task, agent, "killed", termination_reason="too slow")
    for path in scene.root.glob(f"{task}/**/*{agent}*"):
        path.unlink()
    scene.old.edit_globally(lambda everything: everything["agents"].clear())
    before = scene.old.bytes()
    orch = scene.orchestrator()
    for end in (orch.terminate(agent), orch.wait(agent, timeout_s=0)):
        assert ("killed", "too slow", "old system", True) == (
            end.status,
            end.reason,
            end.by,
            end.success,
        )
    assert before == scene.old.bytes()
    assert [] == scene.world.files("sagas/*.jsonl")


# --- whose it is --------------------------------------------------------------------------------


def test_a_session_of_its_name_that_came_at_another_time_is_a_strangers(scene):
    """The agent is long gone; the session is a person's, and he lives on in it."""
    task = scene.old.task()
    agent = scene.old.agent(task, started_at=EARLIER)
    scene.old.tmux("new-session", "-d", "-s", f"agent_{agent}", "exec sleep 1000")
    [pane] = scene.old.panes(f"agent_{agent}")
    end = scene.orchestrator().terminate(agent)
    assert end.success
    assert [f"agent_{agent}"] == scene.old.sessions()
    assert pane in scene.living()
    assert "terminated" == scene.old.record(task, agent)["status"]


ELSEWHERE = "cd / && exec sleep 1000"
HALF_PROVED = {
    "it was made at the right time, and works elsewhere": (None, ELSEWHERE),
    "it was made at another time in this zone, and in another zone at the right one": (
        timedelta(hours=-2),
        ELSEWHERE,
    ),
    "nobody knows when the agent was started": ("yesterday", ELSEWHERE),
    "somebody only looks at its log there": (None, "cd / && exec tail -f {log}"),
    "somebody only looks at its prompt there": (None, "cd / && exec tail -f {prompt}"),
}


@pytest.mark.parametrize(("started_at", "runs"), HALF_PROVED.values(), ids=HALF_PROVED)
def test_what_only_its_name_says_to_be_the_agents_is_left_alone(scene, started_at, runs):
    task = scene.old.task()
    if isinstance(started_at, timedelta):
        started_at = (now() + started_at).isoformat()
    agent = scene.old.agent(task, **({"started_at": started_at} if started_at else {}))
    log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
    log.write_text("line\n")
    place = {"log": log, "prompt": scene.root / task / f"agent_prompt_{agent}.txt"}
    scene.old.tmux("new-session", "-d", "-s", f"agent_{agent}", runs.format(**place))
    before = scene.old.bytes()
    [pane] = scene.old.panes(f"agent_{agent}")
    orch = scene.orchestrator()
    for ask in (orch.terminate, lambda one: orch.wait(one, timeout_s=0)):
        with pytest.raises(CouldNotAsk, match="only its name"):
            ask(agent)
    assert [pane] == scene.old.panes(f"agent_{agent}")
    assert before == scene.old.bytes()
    assert [] == scene.world.files("sagas/*.jsonl")


def test_a_session_whose_name_only_begins_with_its_name_is_another(scene):
    task = scene.old.task()
    agent = scene.old.agent(task)
    scene.old.tmux("new-session", "-d", "-s", f"agent_{agent}0", "exec sleep 1000")
    assert scene.orchestrator().terminate(agent).success
    assert [f"agent_{agent}0"] == scene.old.sessions()


def test_a_session_made_anew_under_the_name_while_it_is_being_ended_is_not_touched(scene):
    """The server compares, and only then kills."""
    orch, _, agent = scene.running()
    real = EndLegacySession._end_session

    def late(step, receipt):
        wait_for_deaths(scene.old.panes(receipt.session), timeout_s=10)
        scene.old.tmux("new-session", "-d", "-s", receipt.session, "exec sleep 1000")
        return real(step, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndLegacySession, "_end_session", late)
        end = orch.terminate(agent)
    assert end.success
    assert [f"agent_{agent}"] == scene.old.sessions()
    assert 1 == len(scene.living())


def test_by_its_birth_and_its_place_a_session_without_a_log_is_known(scene):
    """The agent's shell has no pipeline any more; its name, its time and its place say it."""
    task = scene.old.task()
    agent = scene.old.agent(task)
    scene.old.tmux("new-session", "-d", "-s", f"agent_{agent}", "exec sleep 1000")
    end = scene.orchestrator().terminate(agent)
    assert ([], {}) == (scene.old.sessions(), scene.living())
    proofs = next(step["detail"]["proofs"] for step in end.steps if step["step"] == "spawn_tmux")
    assert [True, True] == ["is recorded for it" in proofs[0], "works in" in proofs[1]]


def test_who_looks_on_in_a_pane_of_his_own_keeps_it_when_the_agents_is_gone(scene):
    """The session was the agent's; what is left in it was started much later, and is a person's."""
    began = now() - timedelta(minutes=7)
    task = scene.old.task()
    agent = scene.old.agent(task, started_at=began.isoformat())
    name = f"agent_{agent}"
    scene.old.tmux("new-session", "-d", "-s", name, "exec sleep 1000")
    [pane] = scene.old.panes(name)
    real = DefaultServer.sessions

    def as_old_as_the_agent(server):
        created = int(began.astimezone().timestamp())
        return tuple(attrs.evolve(one, created=created) for one in real(server))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultServer, "sessions", as_old_as_the_agent)
        with pytest.raises(CouldNotAsk, match="only its name"):
            scene.orchestrator().terminate(agent)
    assert [pane] == scene.old.panes(name)


def test_a_copy_of_the_workspace_does_not_own_the_originals_agents(scene):
    """Its records say the same; its log is another file, its project another place."""
    _, task, agent = scene.running()
    elsewhere = scene.place / "copy"
    elsewhere.mkdir()
    ours = shutil.ignore_patterns("root.json", "sagas", "tmux.sock")
    shutil.copytree(scene.root, elsewhere / ".agent-workspace", ignore=ours)
    copy = acts.opened(elsewhere / ".agent-workspace")
    copied = json.loads((elsewhere / ".agent-workspace" / task / "AGENT_REGISTRY.json").read_text())
    copied["client_cwd"] = str(elsewhere)
    (elsewhere / ".agent-workspace" / task / "AGENT_REGISTRY.json").write_text(json.dumps(copied))
    with pytest.raises(CouldNotAsk):
        copy.terminate(agent)
    assert [f"agent_{agent}"] == scene.old.sessions()


OUTSIDE = ["{place}/precious", "../../precious", "AGENT_REGISTRY.json", "logs/../../../precious"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_recorded_path_leads_to_a_file_that_is_not_the_agents(scene, name):
    task = scene.old.task()
    precious = scene.place / "precious"
    precious.write_text("mine")
    (scene.root / "precious").write_text("mine")
    target = name.format(place=scene.place)
    agent = scene.old.agent(
        task, tracked_files=dict.fromkeys(("prompt_file", "log_file", "progress_file"), target)
    )
    orch = scene.orchestrator()
    assert "mine" not in orch.read_output(agent)
    assert orch.terminate(agent).success
    assert "mine" == precious.read_text() == (scene.root / "precious").read_text()
    assert agent == scene.old.record(task, agent)["id"]


def test_a_log_that_was_recorded_elsewhere_in_its_task_is_archived_from_there(scene):
    task = scene.old.task()
    odd = scene.root / task / "output" / "a-121212-aaaaaa_stream.jsonl"
    odd.write_text("odd\n")
    agent = scene.old.agent(task, id="a-121212-aaaaaa", tracked_files={"log_file": str(odd)})
    scene.orchestrator().terminate(agent)
    assert "odd\n" == scene.archived(task, agent)


# --- misfortune ---------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_no_server_without_sessions(scene):
    _, _, agent = scene.running()
    before = scene.old.bytes()
    server = scene.old.server()
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(CouldNotAsk, match="did not answer"):
            scene.orchestrator(terminal_timeout_s=0.3).terminate(agent)
    finally:
        os.kill(server, signal.SIGCONT)
    assert before == scene.old.bytes()
    assert scene.orchestrator().terminate(agent).success


def test_without_tmux_nothing_is_known(scene, monkeypatch):
    _, _, agent = scene.running()
    before = scene.old.bytes()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(scene.work))
        with pytest.raises(CouldNotAsk, match="tmux"):
            scene.orchestrator().terminate(agent)
    assert before == scene.old.bytes()


def test_a_server_that_hangs_in_the_middle_leaves_it_stuck_and_later_it_is_finished(scene):
    orch, task, agent = scene.running()

    def hang(_step, _receipt):
        raise TerminalTimeout("it hangs")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EndLegacySession, "_end_session", hang)
        end = orch.terminate(agent)
    assert (False, "terminated") == (end.success, scene.old.record(task, agent)["status"])
    orch.recover(force=True)
    assert ([], {}) == (scene.old.sessions(), scene.living())
    assert orch.terminate(agent).success


def test_when_its_server_was_killed_what_lives_on_is_found_by_the_log_it_writes(scene):
    orch, task, agent = scene.running(deaf=True)
    server = scene.old.server()
    os.kill(server, signal.SIGKILL)
    wait_for_deaths([server], timeout_s=10)
    assert 4 == len(scene.living())
    assert orch.terminate(agent).success
    assert {} == scene.living()
    assert "started\nlast words\n" == scene.archived(task, agent)


@pytest.mark.parametrize("step", [EndLegacySession, OpenLog, WritePrompt, RegisterTask])
@pytest.mark.parametrize("when", ["before", "after"])
def test_whenever_who_ends_it_is_killed_the_next_recovery_finishes(scene, step, when):
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
    assert ([], {}) == (scene.old.sessions(), scene.living())
    assert ("terminated", "half") == (
        scene.old.record(task, agent)["status"],
        scene.old.record(task, agent)["termination_reason"],
    )
    assert "started\nlast words\n" == scene.archived(task, agent)
    assert {"terminated": 1} == scene.old.globally()["ended"]


def _die_at(step, when):
    real = step.undo

    def undo(*args):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    step.undo = undo


def test_one_that_was_adopted_and_not_ended_lives_on_until_it_dies(scene):
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0)
    assert (agent,) == scene.orchestrator().recover().alive
    assert [f"agent_{agent}"] == scene.old.sessions()
    panes = scene.old.panes(f"agent_{agent}")
    scene.old.tmux("kill-session", "-t", f"=agent_{agent}")
    wait_for_deaths(panes, timeout_s=10)
    assert "error" == scene.orchestrator(recover=True).agent(agent).status
    assert "started" in scene.archived(task, agent)


def test_one_that_the_old_system_has_ended_after_all_keeps_the_end_it_was_given(scene):
    orch, task, agent = scene.running()
    with pytest.raises(WaitTimeout):
        orch.wait(agent, timeout_s=0)
    scene.old.say_ended(task, agent, "killed", termination_reason="by the old one")
    panes = scene.old.panes(f"agent_{agent}")
    scene.old.tmux("kill-session", "-t", f"=agent_{agent}")
    wait_for_deaths(panes, timeout_s=10)
    end = orch.wait(agent, timeout_s=10)
    assert ("killed", "by the old one", "old system") == (end.status, end.reason, end.by)
    assert {"killed": 1} == scene.old.globally()["ended"]


def test_names_that_tmux_would_not_take_are_shown_and_not_asked_for(scene):
    task = scene.old.task()
    agent = scene.old.agent(task, id="a-121212-aaaaaa", tmux_session="agent_a.b:c")
    odd = scene.old.agent(task, id="b.c-121212-bbbbbb")
    orch = scene.orchestrator()
    assert [agent, odd] == [each.id for each in orch.agents(status="active")]
    with pytest.raises(NotFound, match="cannot have had"):
        orch.terminate(agent)


# --- sweeping -----------------------------------------------------------------------------------


def swept(orch, **how):
    """Return {agent: kind} of what a sweep has found of the old system's agents, and its report."""
    report = orch.sweep(**how)
    assert all(finding.is_old for finding in report.findings)
    return {finding.agent_id: finding.kind.value for finding in report.findings}, report


def test_a_sweep_tells_the_living_from_the_lost_and_from_what_was_not_given_back(scene):
    orch, task, living = scene.running()
    lost, over = scene.old.agent(task, started_at=EARLIER), scene.old.agent(task)
    leaves_on = scene.old.agent(task, runs=LIVES)
    scene.until_started(task, leaves_on)
    scene.old.say_ended(task, leaves_on)
    scene.old.say_ended(task, over)
    before = scene.old.bytes()
    found, report = swept(orch)
    assert {lost: "lost", over: "ended", leaves_on: "ended"} == found
    assert ((living,), ()) == (report.alive, report.unknown)
    assert all(finding.reapable for finding in report.findings)
    assert before == scene.old.bytes()

    found, report = swept(orch, reap=True)
    assert [True] * 3 == [reaped.success for reaped in report.reaped]
    assert [f"agent_{living}"] == scene.old.sessions()
    statuses = {agent: scene.old.record(task, agent)["status"] for agent in found}
    assert {lost: "error", over: "completed", leaves_on: "completed"} == statuses
    assert ({}, (living,)) == (swept(orch)[0], swept(orch)[1].alive)
    assert {"error": 1, "completed": 2} == scene.old.globally()["ended"]
    assert (4, 1, 3) == tuple(
        scene.old.registry(task)[name]
        for name in ("total_spawned", "active_count", "completed_count")
    )


def test_a_sweep_leaves_alone_what_it_cannot_prove_or_ask(scene):
    task = scene.old.task()
    agent = scene.old.agent(task)
    scene.old.tmux("new-session", "-d", "-s", f"agent_{agent}", ELSEWHERE)
    orch = scene.orchestrator(terminal_timeout_s=0.3)
    found, report = swept(orch, reap=True)
    assert {} == found
    assert [True] == ["only its name" in each for each in report.unknown]
    server = scene.old.server()
    os.kill(server, signal.SIGSTOP)
    try:
        found, report = swept(orch, reap=True)
    finally:
        os.kill(server, signal.SIGCONT)
    assert {} == found
    assert [True] == ["did not answer" in each for each in report.unknown]
    assert [f"agent_{agent}"] == scene.old.sessions()
    assert "running" == scene.old.record(task, agent)["status"]


def test_who_came_back_between_the_look_and_the_reaping_lives(scene):
    """The sweep found its agent lost; when it comes to reap it, somebody writes its log."""
    task = scene.old.task()
    agent = scene.old.agent(task)
    real = _Reaper.end_legacy

    def late(reaper, findings):
        log = scene.root / task / "logs" / f"{agent}_stream.jsonl"
        scene.old.start(f"agent_{agent}", LIVES, log)
        scene.follow(log, until=b"started")
        return real(reaper, findings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Reaper, "end_legacy", late)
        found, report = swept(scene.orchestrator(), reap=True)
    assert {agent: "lost"} == found
    assert [False] == [reaped.success for reaped in report.reaped]
    assert [f"agent_{agent}"] == scene.old.sessions()
    assert "running" == scene.old.record(task, agent)["status"]


def test_only_a_root_that_the_old_system_was_in_asks_the_default_server(scene):
    """And one look at it is one call, whatever the number of agents."""
    task = scene.old.task()
    calls = []
    real = DefaultServer.sessions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultServer, "sessions", lambda self: calls.append(1) or real(self))
        scene.orchestrator().sweep()
        assert 0 == len(calls)
        for _ in range(5):
            scene.old.agent(task)
        scene.orchestrator().sweep()
    assert 1 == len(calls)
