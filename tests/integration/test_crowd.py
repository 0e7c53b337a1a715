"""Many agents and many orchestrators at once, on real tmux: limits hold, and nothing grows."""

import json
import threading
from pathlib import Path

import pytest

from orchestrator_core.exceptions import LimitReached
from orchestrator_core.system.processes.protocol import GracePeriods

pytestmark = pytest.mark.tmux

SLEEP = ["sleep", "1000"]


def _crowd(actors, scene, size, act, **args):
    return actors.do_all([actors.job(act, root=str(scene.root), **args) for _ in range(size)])


def test_of_eight_deploys_at_once_as_many_succeed_as_may_live(scene, actors):
    """The limit is checked where agents are counted: four of eight get a place, four a reason."""
    task = actors.do("create_task", root=str(scene.root))["result"]

    how = {"limits": {"max_concurrent": 4}}
    told = _crowd(actors, scene, 8, "deploy", task=task, command=SLEEP, how=how)

    deployed = [one["result"] for one in told if "result" in one]
    refused = [one for one in told if one.get("error") == "limit-reached"]
    assert (4, 4) == (len(deployed), len(refused))
    assert all(not one["told"]["leaked"] for one in refused)
    assert sorted(f"agent_{agent}" for agent in deployed) == scene.world.sessions()
    assert set(deployed) == scene.world.records().keys() == scene.world.entries().keys()
    assert [] == scene.world.torn()


def test_of_eight_deploys_under_one_key_one_is_made(scene, actors):
    """The same key, from eight processes at once, is one agent, and all are told its name."""
    task = actors.do("create_task", root=str(scene.root))["result"]

    told = _crowd(actors, scene, 8, "deploy", task=task, command=SLEEP, key="nightly")

    assert 1 == len({one["result"] for one in told}), told
    assert 1 == len(scene.world.sessions())
    assert [] == scene.world.torn()


def test_two_threads_cannot_both_take_the_last_place(scene):
    """One orchestrator, many threads, one place: one agent."""
    orch = scene.orchestrator(limits={"max_concurrent": 1})
    task = orch.create_task("tried")
    refused = []

    def deploy():
        try:
            orch.deploy(task.id, scene.spec())
        except LimitReached as error:
            refused.append(error)

    _in_threads(deploy, 4)

    assert (3, 1) == (len(refused), len(scene.world.sessions()))
    assert [] == scene.world.torn()


@pytest.mark.parametrize("limits", [{"max_agents": 2}, {"max_depth": 2}], ids=str)
def test_the_limits_of_a_task_and_of_depth_hold(limits, scene):
    """A third agent of two, or a third generation of two, is refused, and nothing is left of it."""
    orch = scene.orchestrator(limits=limits)
    task = orch.create_task("tried")
    parent = orch.deploy(task.id, scene.spec())
    child = orch.deploy(task.id, scene.spec(parent=parent.id))

    with pytest.raises(LimitReached):
        orch.deploy(task.id, scene.spec(parent=child.id))

    assert (1, 2) == (parent.depth, child.depth)
    assert 2 == len(scene.world.sessions())
    assert [] == scene.world.torn()


def test_twice_two_orchestrators_end_one_agent_once(scene, actors):
    """Eight at once end the same agent: one unwinding, and its report for all of them."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    agent = actors.do("deploy", root=str(scene.root), task=task, command=SLEEP)["result"]

    told = _crowd(actors, scene, 8, "terminate", agent=agent)

    reports = [one["result"] for one in told]
    assert 1 == len({json.dumps(report, sort_keys=True) for report in reports})
    assert ["unwind"] == [x["kind"] for x in scene.world.journal(agent) if x["kind"] == "unwind"]
    assert {"terminated": 1} == scene.world.totals()["ended"]
    assert [] == scene.world.leftovers()


def test_reports_from_eight_processes_are_all_there(scene, actors):
    """Eight processes with 25 reports each for one agent: 200 lines, and none is torn."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    agent = actors.do("deploy", root=str(scene.root), task=task, command=SLEEP)["result"]

    told = _crowd(actors, scene, 8, "update", agent=agent, times=25)

    assert [[True] * 25] * 8 == [one["result"] for one in told]
    [path] = scene.root.glob("TASK-*/progress/*.jsonl")
    assert 200 == len([json.loads(line) for line in path.read_text().splitlines()])


def test_recovery_beside_deploys_and_ends_disturbs_nobody(scene, actors):
    """While some deploy and end, others recover without pause: whoever lives is left alone."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    root = str(scene.root)
    life = [actors.job("deploy_and_end", root=root, task=task, times=4) for _ in range(3)]
    recoveries = [actors.job("recover_often", root=root, times=25) for _ in range(2)]

    told = actors.do_all([*life, *recoveries])

    assert [[True] * 4] * 3 == [one["result"] for one in told[:3]]
    assert [[], []] == [one["result"] for one in told[3:]]  # They have unwound nothing.
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_fifty_agents_one_after_another_leave_nothing_and_grow_nothing(scene):
    """What one agent leaves is its archive and its closed journal, however many there were."""
    orch = scene.orchestrator()
    task = orch.create_task("tried")
    spec = scene.spec("sh", "-c", "echo hello; exec sleep 1000")

    def live(count):
        for _ in range(count):
            assert orch.terminate(orch.deploy(task.id, spec).id).success

    live(5)
    before, before_of_tmux = _held(scene), _descriptors_of_tmux(scene)
    live(45)

    assert before == _held(scene)
    # A server lets go of its last clients when it comes to it.
    assert _descriptors_of_tmux(scene) < before_of_tmux + 5
    assert [] == scene.world.leftovers() + scene.world.torn()
    assert 100 == len(scene.world.files("TASK-*/archive/*"))
    assert 50 == len(scene.world.files("sagas/closed/*.jsonl"))
    assert {"terminated": 50} == scene.world.totals()["ended"]


def test_twenty_agents_at_once_leave_nothing(scene):
    """Deployed by four threads, alive at the same time, ended by four threads."""
    orch = scene.orchestrator(limits={"max_concurrent": 20})
    task = orch.create_task("tried")
    agents = []

    _in_threads(lambda: agents.extend(orch.deploy(task.id, scene.spec()) for _ in range(5)), 4)
    assert 20 == len(scene.world.sessions()) == scene.world.totals()["active_agents"]
    assert [] == scene.world.torn()

    waiting = [agent.id for agent in agents]
    ended = []
    _in_threads(lambda: ended.extend(orch.terminate(waiting.pop()).success for _ in range(5)), 4)

    assert [True] * 20 == ended
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_twenty_that_finish_by_themselves_at_the_same_time_leave_nothing(scene):
    """Each becomes its own unwinder; all of them together wait for nobody for long."""
    orch = scene.orchestrator()
    task = orch.create_task("tried")
    spec = scene.spec("sh", "-c", f"read go < {scene.gate('go')}; echo done")
    agents = [orch.deploy(task.id, spec).id for _ in range(20)]

    with (scene.work / "go").open("w") as gate:  # Open until all have come to read.
        gate.write("go\n" * 20)
        gate.flush()
        ends = [orch.wait(agent, timeout_s=60) for agent in agents]

    assert [("completed", True)] * 20 == [(end.status, end.success) for end in ends]
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_nobody_waits_for_an_end_that_takes_its_time(scene):
    """While an agent that ignores SIGTERM is being ended, others report, deploy and end."""
    orch = scene.orchestrator(patience=GracePeriods(term_s=20, kill_s=2))
    task = orch.create_task("tried")
    # It leaves when it is told, not when it is asked.
    script = f"trap '' TERM HUP; echo deaf; read go < {scene.gate('go')}"
    slow, other = (
        orch.deploy(task.id, scene.spec("sh", "-c", script)),
        orch.deploy(task.id, scene.spec()),
    )
    scene.follow(*scene.root.glob(f"TASK-*/logs/{slow.id}_stream.jsonl"), until=b"deaf")
    ending = threading.Thread(target=orch.terminate, args=[slow.id])
    ending.start()
    scene.follow(scene.root / f"sagas/{slow.id}.jsonl", until=b'"kind":"unwind"')

    assert orch.report_progress(other.id, "working").recorded
    assert orch.terminate(orch.deploy(task.id, scene.spec()).id).success
    assert orch.terminate(other.id).success

    assert ending.is_alive()
    scene.let_go("go")
    ending.join()
    assert [] == scene.world.leftovers() + scene.world.torn()


def _in_threads(act, count):
    errors = []

    def guarded():
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors


def _descriptors_of_tmux(scene):
    return len([*Path(f"/proc/{scene.world.server()}/fd").iterdir()])


def _held(scene):
    """Return all that must not grow: descriptors, threads, cgroups, files that are no history."""
    history = {*scene.world.files("TASK-*/archive/*"), *scene.world.files("sagas/closed/*")}
    files = [str(p.relative_to(scene.root)) for p in scene.root.rglob("*") if not p.is_dir()]
    return {
        "descriptors of ours": len([*Path("/proc/self/fd").iterdir()]),
        "threads": threading.active_count(),
        "cgroups": scene.world.cgroups(),
        "files": sorted({*files} - history),
    }
