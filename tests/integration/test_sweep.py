"""
The findings of a sweep, one test or more for each kind: real files, a fake terminal.

A dry run changes nothing. Reaping ends only what has two proofs.
"""

import fcntl
import json
import math
import shutil
import threading
import time

import attrs
import pytest
from support.fakes import a_fake_scene

from orchestrator_core import FindingKind
from orchestrator_core.deployment.terminator import Terminator
from orchestrator_core.exceptions import CouldNotAsk, TerminalError
from orchestrator_core.operations import doctor
from orchestrator_core.reconcile.sweep import reap as reaping
from orchestrator_core.system.terminal import Session


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("swept").id


def kinds(report):
    return [finding.kind.value for finding in report.findings]


def session_of(agent):
    return f"agent_{agent}"


def cookie_of(scene, agent):
    return f"oc_{scene.world.root_id}_{agent}"


def edit(path, change):
    """Change a registry as an editor does: without a lock."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def left(scene):
    return scene.world.leftovers() + scene.world.torn() + scene.fake.errors


# --- nothing to be found --------------------------------------------------------------------------


def test_a_sweep_of_healthy_agents_finds_nothing_and_lists_them_as_alive(scene, orch, task):
    agents = [orch.deploy(task, scene.spec()).id for _ in range(3)]
    orch.terminate(orch.deploy(task, scene.spec()).id)
    before = scene.world.snapshot()

    report = orch.sweep(reap=True)

    assert report.clean
    assert sorted(agents) == sorted(report.alive)
    assert before == scene.world.snapshot()


def test_an_empty_root_is_clean(orch):
    assert orch.sweep().clean


# --- agents ---------------------------------------------------------------------------------------


def lost(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    scene.fake.kill_supervisor(session_of(agent))
    return agent


def lost_with_the_server(scene, orch, task):
    agent = orch.deploy(task, scene.spec("stubborn")).id
    scene.fake.kill_supervisor(session_of(agent))
    scene.fake.kill_server()
    return agent


def lost_with_the_machine(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    scene.fake.reboot()
    return agent


def stuck(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    scene.fake.fail("processes.terminate_all", CouldNotAsk("not now"), times=math.inf)
    assert not orch.terminate(agent).success
    scene.fake.mend()
    return agent


GONE = {
    "lost": (lost, "error"),
    "lost with the server": (lost_with_the_server, "error"),
    "lost with the machine": (lost_with_the_machine, "error"),
    "stuck": (stuck, "terminated"),
}


@pytest.mark.parametrize("how", GONE)
def test_an_agent_that_is_gone_is_found_and_reaped_with_nothing_left(how, scene, orch, task):
    begin, status = GONE[how]
    stays = None if "machine" in how or "server" in how else orch.deploy(task, scene.spec()).id
    agent = begin(scene, orch, task)
    before = scene.world.snapshot()

    [found] = orch.sweep().findings

    assert (how.split()[0], agent) == (found.kind.value, found.agent_id)
    assert found.reapable
    assert before == scene.world.snapshot()

    report = orch.sweep(reap=True)

    assert ([], [agent]) == (list(report.left), [one.finding.agent_id for one in report.reaped])
    assert report.reaped[0].end.success
    assert status == orch.agent(agent).status
    if stays is not None:
        assert (stays,) == orch.sweep().alive
        orch.terminate(stays)
    assert [] == left(scene)


def test_a_silent_agent_is_reported_and_left_alone(scene, orch, task):
    """Silence is no proof of anything: an agent may be thinking."""
    agent = orch.deploy(task, scene.spec(silent_after_s=0.001)).id
    other = orch.deploy(task, scene.spec(silent_after_s=3600)).id

    report = orch.sweep(reap=True)

    assert [("silent", agent)] == [(each.kind.value, each.agent_id) for each in report.findings]
    assert ((), {agent, other}) == (report.reaped, set(report.alive))
    assert orch.agent(agent).is_active


@pytest.mark.parametrize("how", ["lost", "stuck"])
def test_an_agent_with_a_live_owner_is_left_to_the_owner(how, scene, orch, task):
    """The owner of a deployment or an unwinding holds the journal's lock."""
    agent = GONE[how][0](scene, orch, task)
    with (scene.root / "sagas" / f"{agent}.jsonl").open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        report = orch.sweep(reap=True)

    assert ((), (), (), (agent,)) == (report.findings, report.reaped, report.alive, report.busy)
    assert [agent] == [one.finding.agent_id for one in orch.sweep(reap=True).reaped]
    assert [] == left(scene)


def test_an_agent_whose_supervisor_has_not_noticed_its_lost_session_is_ended(
    scene, orch, task, monkeypatch
):
    """The session is gone, and its supervisor, which is stopped, has lost its terminal."""
    agent = orch.deploy(task, scene.spec()).id
    stays = orch.deploy(task, scene.spec()).id
    shown, panes = scene.fake.sessions, scene.fake.processes.pane_of
    [gone] = (each.pane_pid for each in shown() if each.name == session_of(agent))
    monkeypatch.setattr(
        scene.fake,
        "sessions",
        lambda: tuple(each for each in shown() if each.name != session_of(agent)),
    )
    monkeypatch.setattr(
        scene.fake.processes,
        "pane_of",
        lambda process: attrs.evolve(panes(process), hung_up=process.pid == gone),
    )

    [found] = orch.sweep().findings

    assert ("lost", agent, True) == (found.kind.value, found.agent_id, found.reapable)
    assert "its supervisor is alive" in found.what
    [reaped] = orch.sweep(reap=True).reaped
    assert (True, "terminated") == (reaped.success, orch.agent(agent).status)
    assert (stays,) == orch.sweep().alive
    orch.terminate(stays)
    assert [] == left(scene)


def test_agents_behind_a_removed_socket_are_left_alone_and_their_server_listens_again(
    scene, orch, task
):
    """No server is found, and the supervisors live and still have their terminals."""
    agents = sorted(orch.deploy(task, scene.spec()).id for _ in range(2))
    scene.fake.lose_socket()
    before = scene.world.snapshot()

    report = orch.sweep()

    assert ((), agents) == (report.findings, sorted(report.alive))
    [unknown] = report.unknown
    assert all(agent in unknown for agent in agents)
    assert "kill -USR1" in unknown
    assert () == scene.fake.sessions()  # A dry run asks for nothing.
    reaped = orch.sweep(reap=True)
    assert ((), False) == (reaped.reaped, reaped.clean)
    assert orch.sweep(reap=True).clean
    assert before == scene.world.snapshot()


@pytest.mark.parametrize("act", ["recover", "sweep", "terminate"])
def test_a_server_that_hangs_costs_each_pass_one_timeout(scene, orch, task, act):
    """In virtual time: with three lost agents, or with an agent and its two children."""
    agent = orch.deploy(task, scene.spec()).id
    parent = agent if act == "terminate" else "orchestrator"
    agents = [agent, *(orch.deploy(task, scene.spec(parent=parent)).id for _ in range(2))]
    for each in agents if act != "terminate" else ():
        scene.fake.kill_supervisor(session_of(each))
    scene.fake.hang()
    for _ in range(2):
        began = scene.fake.now
        if act == "recover":
            orch.recover(force=True)
        elif act == "sweep":
            assert not orch.sweep(reap=True).clean
        else:
            assert not orch.terminate(agent).success
        assert scene.fake.now - began == pytest.approx(scene.fake.timeout_s, abs=1)

    scene.fake.resume()
    orch.recover(force=True)
    assert orch.sweep(reap=True).clean
    assert [] == left(scene)


# --- a registry that was removed under a living agent ---------------------------------------------


def test_a_removed_registry_of_a_task_is_found_and_rebuilt_and_the_agent_lives_on(
    scene, orch, task
):
    agents = sorted(orch.deploy(task, scene.spec()).id for _ in range(2))
    ended = orch.deploy(task, scene.spec()).id
    orch.terminate(ended)
    path = scene.root / task / "AGENT_REGISTRY.json"
    before = _records(path)
    path.unlink()

    report = orch.sweep()
    [check] = [check for check in doctor.examine(scene.root) if check.name == "registries"]

    assert {("disagreement", agent) for agent in agents} == {
        (each.kind.value, each.agent_id) for each in report.findings
    }
    assert all("registry was removed" in each.what for each in report.findings)
    assert ("failed", True) == (check.verdict.value, f"{path} is gone" in check.found)
    assert f"repair --task {task}" in check.remedy
    assert not path.exists()

    assert all(one.success for one in orch.sweep(reap=True).reaped)
    assert before == _records(path)
    assert orch.sweep().clean
    assert agents == sorted(agent.id for agent in orch.agents(status="active"))
    for agent in agents:
        orch.terminate(agent)
    assert [] == left(scene)


def _records(path):
    """Return a registry's records without the times of an end: a journal's differ by a little."""
    times = ("last_update", "completed_at", "terminated_at", "auto_cleanup_timestamp")
    return [
        {name: value for name, value in record.items() if name not in times}
        for record in json.loads(path.read_bytes())["agents"]
    ]


@pytest.mark.parametrize("how", ["terminate", "exit", "report"])
def test_an_end_without_a_registry_is_recorded_in_a_rebuilt_one_and_ends_the_children(
    scene, orch, task, how
):
    agent = orch.deploy(task, scene.spec()).id
    child = orch.deploy(task, scene.spec(parent=agent)).id
    path = scene.root / task / "AGENT_REGISTRY.json"
    path.unlink()
    if how == "report":
        orch.report_progress(agent, progress=50, message="half")
        assert 50 == orch.agent(agent).progress
        path.unlink()

    if how == "exit":
        scene.fake.exit(session_of(agent), 3)
        end = orch.wait(agent, timeout_s=20)
    else:
        end = orch.terminate(agent)

    assert [child] == [each.agent_id for each in end.children]
    assert ("failed" if how == "exit" else "terminated") == orch.agent(agent).status
    record = orch.agent(agent).record
    assert record["auto_cleanup_result"]["success"]
    assert not orch.agent(child).is_active
    assert orch.sweep().clean
    assert [] == left(scene)


def test_a_removed_task_is_found_and_its_agent_can_be_ended(scene, orch, task):
    """No registry can be rebuilt in a directory that is gone."""
    agent = orch.deploy(task, scene.spec()).id
    shutil.rmtree(scene.root / task)

    [found] = orch.sweep(reap=True).findings
    [check] = [check for check in doctor.examine(scene.root) if check.name == "registries"]

    assert ("disagreement", agent, False) == (found.kind.value, found.agent_id, found.reapable)
    assert "directory was removed" in found.what
    assert ("failed", f"orchestrator-core kill {agent}") == (check.verdict.value, check.remedy)
    assert [agent] == [each.id for each in orch.agents()]
    assert orch.terminate(agent).success
    assert orch.sweep().clean
    assert not (scene.root / task).exists()


def test_a_removed_global_registry_is_rebuilt_by_the_next_end_or_deployment(scene, orch, task):
    agent, other = (orch.deploy(task, scene.spec()).id for _ in range(2))
    path = scene.root / "registry" / "GLOBAL_REGISTRY.json"
    path.unlink()
    assert 2 == len(orch.sweep().findings)

    orch.terminate(agent)
    document = json.loads(path.read_bytes())
    assert ([other], {"terminated": 1}) == (list(document["agents"]), document["ended"])
    path.unlink()
    third = orch.deploy(task, scene.spec()).id
    assert {other, third} == set(json.loads(path.read_bytes())["agents"])
    for each in (other, third):
        orch.terminate(each)
    assert [] == left(scene)


# --- a journal that was removed under a living agent ----------------------------------------------


def test_a_removed_journal_is_found_and_restored_and_the_agent_lives_on(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    before = scene.fake.alive()
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()

    [found] = orch.sweep().findings
    [check] = [check for check in doctor.examine(scene.root) if check.name == "journals"]

    assert ("disagreement", agent, True) == (found.kind.value, found.agent_id, found.reapable)
    assert "its journal was removed" in found.what
    assert ("failed", True) == (check.verdict.value, agent in check.found)
    [reaped] = orch.sweep(reap=True).reaped
    assert (True, "it has a journal again") == (reaped.success, reaped.message)
    assert before == scene.fake.alive()
    assert (True, (agent,)) == ((report := orch.sweep()).clean, report.alive)
    assert orch.terminate(agent).success
    assert [] == left(scene)


@pytest.mark.parametrize("how", ["terminate", "report", "wait", "unreachable"])
def test_an_agent_with_a_removed_journal_can_be_ended_and_keeps_its_status(scene, orch, task, how):
    agent = orch.deploy(task, scene.spec("fails" if how == "wait" else "lives")).id
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()

    if how == "wait":
        end = orch.wait(agent, timeout_s=20)
    elif how == "report":
        end = orch.report_progress(agent, "completed").end
    elif how == "unreachable":
        assert [agent] == [each.id for each in orch.agents(status="active")]
        scene.fake.lose_socket()
        end = orch.terminate(agent)
    else:
        end = orch.terminate(agent)

    expected = {"wait": "failed", "report": "completed"}.get(how, "terminated")
    assert (expected, expected) == (end.status, orch.agent(agent).status)
    assert end.success
    assert [] == left(scene)


def test_a_recovery_from_inside_an_agent_leaves_its_end_to_a_sweep_from_outside(scene, orch, task):
    """A recovery inside the agent would end its own process half-way."""
    agent = orch.deploy(task, scene.spec("stubborn")).id
    with scene.fake.inside(session_of(agent)):
        scene.fake.kill_supervisor(session_of(agent))
        report = orch.recover()

    assert ((agent,), {}) == (report.busy, report.unwound)
    assert [True] == [one.success for one in orch.sweep(reap=True).reaped]
    assert [] == left(scene)


# --- orphans ------------------------------------------------------------------------------------


def test_a_session_with_the_roots_mark_and_no_saga_is_ended(scene, orch, task):
    """The saga's journal was removed by hand, and so were the agent's records."""
    agent = orch.deploy(task, scene.spec()).id
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()
    edit(scene.root / task / "AGENT_REGISTRY.json", lambda document: document["agents"].clear())
    everything = scene.root / "registry" / "GLOBAL_REGISTRY.json"
    edit(everything, lambda document: document["agents"].clear())

    report = orch.sweep()
    assert FindingKind.ORPHAN_SESSION.value in kinds(report)
    assert {agent} == {finding.agent_id for finding in report.findings}

    assert () == orch.sweep(reap=True).left
    assert [] == left(scene)


def test_a_foreign_session_with_an_agents_name_is_never_touched(scene, orch, task):
    """Without the mark, a name is no proof."""
    orch.deploy(task, scene.spec())
    scene.fake.start_foreign_session("agent_a-101010-abcdef")
    scene.fake.start_foreign_session("agent_b-101010-abcdef", owner="somebody")
    before = scene.fake.sessions()

    assert orch.sweep(reap=True).clean
    assert before == scene.fake.sessions()


def test_a_session_with_a_copied_mark_is_reported_and_left_alone(scene, orch, task):
    """The mark of an agent on a session of another name is one proof only."""
    agent = orch.deploy(task, scene.spec()).id
    orch.terminate(agent)
    scene.fake.start_foreign_session("mine", owner=cookie_of(scene, agent))

    report = orch.sweep(reap=True)

    assert ["stray_session"] == kinds(report)
    assert ((), False) == (report.reaped, report.findings[0].reapable)
    assert ["mine"] == scene.world.sessions()


def test_a_process_that_outlived_its_agent_is_ended_by_its_cookie(scene, orch, task):
    """A saga adopts the process, which belongs to the agent."""
    agent = orch.deploy(task, scene.spec("stray")).id
    scene.fake.kill_supervisor(session_of(agent))
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()
    assert scene.world.processes()

    assert "stray_process" in kinds(orch.sweep())
    assert () == orch.sweep(reap=True).left

    assert {} == scene.world.processes()
    assert [] == left(scene)


def test_files_of_an_agent_without_a_saga_are_archived(scene, orch, task):
    """A deploy log names the agent in its name and its content: two proofs. A name alone is one."""
    folder = scene.root / task
    sure, doubtful = "a-101010-abcdef", "b-101010-abcdef"
    (folder / "logs" / f"deploy_{sure}.json").write_text(json.dumps({"agent_id": sure}))
    (folder / f"agent_prompt_{doubtful}.txt").write_text("mine")

    report = orch.sweep(reap=True)

    found = {finding.agent_id: finding.reapable for finding in report.findings}
    assert {sure: True, doubtful: False} == found
    assert not (folder / "logs" / f"deploy_{sure}.json").exists()
    assert list((folder / "archive").glob(f"*{sure}*"))
    assert "mine" == (folder / f"agent_prompt_{doubtful}.txt").read_text()


def test_a_link_with_an_agents_name_leads_nowhere(scene, orch, task):
    mine = scene.root.parent / "mine"
    mine.write_text(json.dumps({"agent_id": "a-101010-abcdef"}))
    link = scene.root / task / "logs" / "deploy_a-101010-abcdef.json"
    link.symlink_to(mine)

    report = orch.sweep(reap=True)

    assert [False] == [finding.reapable for finding in report.findings]
    assert link.is_symlink()
    assert mine.exists()


def test_a_link_is_no_second_proof_of_a_record(scene, orch, task):
    """A person copied a record, and made a link with the name of the copy's prompt."""
    copied = "b-101010-abcdef"
    orch.deploy(task, scene.spec())
    edit(
        scene.root / task / "AGENT_REGISTRY.json",
        lambda document: document["agents"].append({**document["agents"][0], "id": copied}),
    )
    (scene.root / task / f"agent_prompt_{copied}.txt").symlink_to("/dev/null")

    report = orch.sweep(reap=True)

    assert {copied} == {finding.agent_id for finding in report.findings}
    assert [False] * len(report.findings) == [finding.reapable for finding in report.findings]
    assert "running" == orch.agent(copied).status


def test_a_tmux_server_that_a_lost_agent_has_started_is_no_orphan(scene, orch, task):
    """Other people may have sessions on the server."""
    agent = orch.deploy(task, scene.spec("stray")).id
    scene.fake.kill_supervisor(session_of(agent))
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()
    assert "stray_process" in kinds(orch.sweep())

    for process in scene.fake.alive():
        process.name = "tmux: server"

    assert "stray_process" not in kinds(orch.sweep())


def test_a_finding_that_a_second_snapshot_does_not_show_is_dropped(scene, orch, task, monkeypatch):
    """An agent may end after its session was read, and before its journal is."""
    agent = orch.deploy(task, scene.spec()).id
    orch.terminate(agent)
    calls = []
    real = scene.fake.sessions
    ended = Session(session_of(agent), cookie_of(scene, agent), 1, 1)

    def sessions():
        calls.append(None)
        return (ended,) if len(calls) == 1 else real()

    monkeypatch.setattr(scene.fake, "sessions", sessions)

    assert () == orch.sweep().findings
    assert 2 == len(calls)


def test_a_record_of_an_agent_that_has_no_journal_is_ended(scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    scene.fake.reboot()
    (scene.root / "sagas" / f"{agent}.jsonl").unlink()

    assert "stray_record" in kinds(orch.sweep())
    assert () == orch.sweep(reap=True).left

    assert "error" == orch.agent(agent).status
    assert {} == scene.world.entries()


# --- registries -----------------------------------------------------------------------------------


def test_a_registry_that_contradicts_the_journals_is_repaired(scene, orch, task):
    """An editor swapped the statuses of a live agent and an ended one."""
    alive, ended = (orch.deploy(task, scene.spec()).id for _ in range(2))
    orch.terminate(ended)

    def confuse(document):
        for each in document["agents"]:
            each["status"] = "completed" if each["id"] == alive else "running"

    edit(scene.root / task / "AGENT_REGISTRY.json", confuse)

    def confuse_all(document):
        document["agents"] = {ended: document["agents"][alive]}

    edit(scene.root / "registry" / "GLOBAL_REGISTRY.json", confuse_all)

    report = orch.sweep()
    assert {"disagreement"} == set(kinds(report))
    found = [(finding.subject.split()[0], finding.agent_id) for finding in report.findings]
    assert sorted(
        (place, agent) for place in ("record", "entry") for agent in (alive, ended)
    ) == sorted(found)

    assert () == orch.sweep(reap=True).left
    assert ("running", "terminated") == (orch.agent(alive).status, orch.agent(ended).status)
    assert [alive] == list(scene.world.entries())


@pytest.mark.parametrize("which", ["task", "global", "journal"])
def test_a_damaged_file_is_quarantined_and_written_anew(which, scene, orch, task):
    agent = orch.deploy(task, scene.spec()).id
    path = {
        "task": scene.root / task / "AGENT_REGISTRY.json",
        "global": scene.root / "registry" / "GLOBAL_REGISTRY.json",
        "journal": scene.root / "sagas" / f"{agent}.jsonl",
    }[which]
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\0" + data[41:])

    assert "damaged" in kinds(orch.sweep())
    report = orch.sweep(reap=True)

    assert all(one.success for one in report.reaped)
    remaining = orch.sweep().findings  # A person removes the quarantined file.
    assert ["damaged"] == [finding.kind.value for finding in remaining]
    assert not remaining[0].reapable
    assert orch.agent(agent).is_active
    assert orch.terminate(agent).success


# --- unreadable sources ---------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["the terminal hangs", "the processes cannot be seen"])
def test_a_source_that_cannot_be_read_is_unknown_and_nothing_is_touched(trouble, scene, orch, task):
    agents = [orch.deploy(task, scene.spec()).id for _ in range(3)]
    if "terminal" in trouble:
        scene.fake.fail("sessions", TerminalError("no answer"), times=math.inf)
    else:
        scene.fake.fail("processes.find_tagged", CouldNotAsk("no /proc"), times=math.inf)

    report = orch.sweep(reap=True)

    assert ((), ()) == (report.findings, report.reaped)
    assert report.unknown
    assert not report.clean
    scene.fake.mend()
    assert set(agents) == set(orch.sweep().alive)


def test_an_unreadable_source_does_not_hide_findings_from_other_sources(scene, orch, task):
    """One task's registry cannot be read; the dead agent is in another task."""
    agent = lost(scene, orch, task)
    other = orch.create_task("another").id
    path = scene.root / other / "AGENT_REGISTRY.json"
    path.unlink()
    path.symlink_to("/dev/null")

    report = orch.sweep(reap=True)

    assert agent in {one.finding.agent_id for one in report.reaped if one.success}
    assert not orch.agent(agent).is_active


def test_an_interrupted_reap_completes_what_has_begun_and_begins_no_more(
    scene, orch, task, monkeypatch
):
    """KeyboardInterrupt arrives while the first agents are being unwound."""
    for _ in range(20):
        orch.deploy(task, scene.spec())
    scene.fake.reboot()
    begun, at_work = [], threading.Event()
    real = Terminator.recover

    def recover(self, **how):
        begun.append(how)
        at_work.set()
        time.sleep(0.3)
        return real(self, **how)

    def interrupted(*_):
        assert at_work.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(Terminator, "recover", recover)
    monkeypatch.setattr(reaping, "wait", interrupted)
    monkeypatch.setattr(reaping, "_MAX_WORKERS", 2)

    with pytest.raises(KeyboardInterrupt):
        orch.sweep(reap=True)

    monkeypatch.undo()
    left = orch.sweep()
    assert 1 <= len(begun) <= 2
    assert 20 - len(begun) == len(left.findings)
    assert orch.sweep(reap=True).left == ()
    assert orch.sweep().clean


def test_a_failure_to_reap_one_agent_does_not_affect_the_others(scene, orch, task):
    agents = [lost(scene, orch, task) for _ in range(3)]
    scene.fake.fail("processes.terminate_all", CouldNotAsk("not this one"), times=1)

    report = orch.sweep(reap=True)

    assert 2 <= sum(one.success for one in report.reaped)
    assert orch.sweep(reap=True).clean
    assert {"error"} == {orch.agent(agent).status for agent in agents}


# --- the report -----------------------------------------------------------------------------------


def test_a_report_is_json_with_proofs(scene, orch, task):
    lost(scene, orch, task)
    report = json.loads(json.dumps(orch.sweep().to_dict()))
    [finding] = report["findings"]
    assert (False, True, True) == (report["clean"], report["dry_run"], finding["reapable"])
    assert 2 <= len(finding["proofs"])
    assert finding["action"]
