"""Many agents and many orchestrators at once, on real tmux: limits hold, nothing leaks."""

import json
import threading
from pathlib import Path

import pytest

from orchestrator_core.exceptions import LimitReached
from orchestrator_core.system.processes.protocol import GracePeriods

pytestmark = pytest.mark.tmux

SLEEP = ["sleep", "1000"]


def _all_at_once(actors, scene, size, act, **args):
    return actors.do_all([actors.job(act, root=str(scene.root), **args) for _ in range(size)])


def test_eight_deploys_at_once_respect_the_limit_of_four_running_agents(scene, actors):
    """Four of eight deployments succeed, and four get an error that names the limit."""
    task = actors.do("create_task", root=str(scene.root))["result"]

    how = {"limits": {"max_concurrent": 4}}
    results = _all_at_once(actors, scene, 8, "deploy", task=task, command=SLEEP, how=how)

    deployed = [one["result"] for one in results if "result" in one]
    refused = [one for one in results if one.get("error") == "limit-reached"]
    assert (4, 4) == (len(deployed), len(refused))
    assert all(not one["details"]["leaked"] for one in refused)
    assert sorted(f"agent_{agent}" for agent in deployed) == scene.world.sessions()
    assert set(deployed) == scene.world.records().keys() == scene.world.entries().keys()
    assert [] == scene.world.torn()


def test_eight_deploys_with_one_key_create_one_agent(scene, actors):
    """Eight processes deploy with the same key at once. All get the same agent."""
    task = actors.do("create_task", root=str(scene.root))["result"]

    results = _all_at_once(actors, scene, 8, "deploy", task=task, command=SLEEP, key="nightly")

    assert 1 == len({one["result"] for one in results}), results
    assert 1 == len(scene.world.sessions())
    assert [] == scene.world.torn()


def test_four_threads_cannot_exceed_a_limit_of_one(scene):
    """Four threads of one orchestrator deploy under a limit of one: one agent runs."""
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
    """An agent beyond the limit is refused, and nothing of it is left."""
    orch = scene.orchestrator(limits=limits)
    task = orch.create_task("tried")
    parent = orch.deploy(task.id, scene.spec())
    child = orch.deploy(task.id, scene.spec(parent=parent.id))

    with pytest.raises(LimitReached):
        orch.deploy(task.id, scene.spec(parent=child.id))

    assert (1, 2) == (parent.depth, child.depth)
    assert 2 == len(scene.world.sessions())
    assert [] == scene.world.torn()


def test_eight_orchestrators_end_one_agent_once(scene, actors):
    """Eight processes end the same agent at once: one unwinding, and its report for all."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    agent = actors.do("deploy", root=str(scene.root), task=task, command=SLEEP)["result"]

    results = _all_at_once(actors, scene, 8, "terminate", agent=agent)

    reports = [one["result"] for one in results]
    assert 1 == len({json.dumps(report, sort_keys=True) for report in reports})
    assert ["unwind"] == [x["kind"] for x in scene.world.journal(agent) if x["kind"] == "unwind"]
    assert {"terminated": 1} == scene.world.totals()["ended"]
    assert [] == scene.world.leftovers()


def test_no_report_of_eight_processes_is_lost(scene, actors):
    """Eight processes write 25 reports each for one agent: 200 lines, none of them torn."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    agent = actors.do("deploy", root=str(scene.root), task=task, command=SLEEP)["result"]

    results = _all_at_once(actors, scene, 8, "update", agent=agent, times=25)

    assert [[True] * 25] * 8 == [one["result"] for one in results]
    [path] = scene.root.glob("TASK-*/progress/*.jsonl")
    assert 200 == len([json.loads(line) for line in path.read_text().splitlines()])


def test_recovery_beside_deploys_and_ends_touches_no_live_agent(scene, actors):
    """Three processes deploy and end agents while two others recover without pause."""
    task = actors.do("create_task", root=str(scene.root))["result"]
    root = str(scene.root)
    life = [actors.job("deploy_and_end", root=root, task=task, times=4) for _ in range(3)]
    recoveries = [actors.job("recover_often", root=root, times=25) for _ in range(2)]

    results = actors.do_all([*life, *recoveries])

    assert [[True] * 4] * 3 == [one["result"] for one in results[:3]]
    assert [[], []] == [
        one["result"] for one in results[3:]
    ]  # The other recoveries have unwound nothing.
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_fifty_agents_one_after_another_leave_nothing_and_grow_nothing(scene):
    """Each agent leaves only its archive and its closed journal."""
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
    # A tmux server closes its last clients' descriptors late.
    assert _descriptors_of_tmux(scene) < before_of_tmux + 5
    assert [] == scene.world.leftovers() + scene.world.torn()
    assert 100 == len(scene.world.files("TASK-*/archive/*"))
    assert 50 == len(scene.world.files("sagas/closed/*.jsonl"))
    assert {"terminated": 50} == scene.world.totals()["ended"]


def test_twenty_agents_at_once_leave_nothing(scene):
    """Four threads deploy twenty agents, and four threads end them."""
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
    """Each supervisor becomes its agent's unwinder."""
    orch = scene.orchestrator()
    task = orch.create_task("tried")
    spec = scene.spec("sh", "-c", f"read go < {scene.gate('go')}; echo done")
    agents = [orch.deploy(task.id, spec).id for _ in range(20)]

    with (scene.work / "go").open("w") as gate:  # The gate is open until all agents read.
        gate.write("go\n" * 20)
        gate.flush()
        ends = [orch.wait(agent, timeout_s=60) for agent in agents]

    assert [("completed", True)] * 20 == [(end.status, end.success) for end in ends]
    assert {} == scene.world.until_alone()
    assert [] == scene.world.leftovers() + scene.world.torn()


def test_a_slow_end_delays_no_other_call(scene):
    """During the end of an agent that ignores SIGTERM, others report, deploy and end."""
    orch = scene.orchestrator(patience=GracePeriods(term_s=20, kill_s=2))
    task = orch.create_task("tried")
    # The agent exits when the test opens the gate, not on a signal.
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
    """Return everything that must not grow: descriptors, threads, cgroups, live files."""
    history = {*scene.world.files("TASK-*/archive/*"), *scene.world.files("sagas/closed/*")}
    files = [str(p.relative_to(scene.root)) for p in scene.root.rglob("*") if not p.is_dir()]
    return {
        "descriptors of this process": len([*Path("/proc/self/fd").iterdir()]),
        "threads": threading.active_count(),
        "cgroups": scene.world.cgroups(),
        "files": sorted({*files} - history),
    }
