"""The acts that are tried on the fake: each prepares a scene, and returns a call."""

from __future__ import annotations

import pytest

from orchestrator_core.deployment.deployer import resolve_lineage
from orchestrator_core.exceptions import OrchestratorError
from orchestrator_core.model.limits import Limits
from support.fakes import a_fake_scene


def deploy(scene, task):
    return lambda: scene.orchestrator().deploy(task, scene.spec())


def deploy_with_a_key(scene, task):
    return lambda: scene.orchestrator().deploy(task, scene.spec(key="one"))


def deploy_what_dies_early(scene, task):
    return _refused(lambda: scene.orchestrator().deploy(task, scene.spec("dies-early"), grace_s=1))


def deploy_what_cannot_run(scene, task):
    return _refused(lambda: scene.orchestrator().deploy(task, scene.spec("refuses")))


def deploy_one_too_many(scene, task):
    scene.orchestrator().deploy(task, scene.spec())
    orch = scene.orchestrator(limits=Limits(max_concurrent=1))
    orch._deployer._precheck = lambda request: resolve_lineage(
        orch._context, request.task_id, request.spec
    )
    return _refused(lambda: orch.deploy(task, scene.spec()))


def terminate(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec("stubborn"))
    return lambda: scene.orchestrator().terminate(agent.id)


def terminate_and_delete_the_logs(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec())
    return lambda: scene.orchestrator().terminate(agent.id, keep_logs=False)


def terminate_a_family(scene, task):
    [parent, *_] = a_family(scene, task)
    return lambda: scene.orchestrator().terminate(parent)


def a_family(scene, task, *, script="lives"):
    """Deploy a parent, its child and its grandchild; return their ids."""
    orch, family = scene.orchestrator(), []
    for _ in range(3):
        parent = family[-1] if family else None
        family.append(orch.deploy(task, scene.spec(script, parent=parent)).id)
    return family


def let_the_children_live(scene, task):
    [parent, *_] = a_family(scene, task)
    return lambda: scene.orchestrator().terminate(parent, cascade=False)


def deploy_a_child(scene, task):
    parent = scene.orchestrator().deploy(task, scene.spec())
    return lambda: scene.orchestrator().deploy(task, scene.spec(parent=parent.id))


def recover_a_lost_family(scene, task):
    a_family(scene, task, script="stubborn")
    scene.fake.reboot()
    return lambda: scene.orchestrator().recover()


def report_the_end(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec())
    return lambda: scene.orchestrator().report_progress(agent.id, "completed")


def report_the_end_from_inside(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec())

    def act():
        with scene.fake.inside(agent.tmux_session):
            scene.orchestrator().report_progress(agent.id, "completed")

    return act


def report_a_finding(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec())
    return lambda: scene.orchestrator().report_finding(agent.id, "found", severity="high")


def recover_the_lost(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec("stubborn"))
    scene.fake.kill_supervisor(agent.tmux_session)
    return lambda: scene.orchestrator().recover()


def recover_after_a_reboot(scene, task):
    scene.orchestrator().deploy(task, scene.spec())
    scene.orchestrator().deploy(task, scene.spec("stray"))
    scene.fake.reboot()
    return lambda: scene.orchestrator().recover()


def _refused(act):
    def refused():
        with pytest.raises(OrchestratorError):
            act()

    return refused


ACTS = [
    deploy,
    deploy_with_a_key,
    deploy_what_dies_early,
    deploy_what_cannot_run,
    deploy_one_too_many,
    deploy_a_child,
    terminate,
    terminate_a_family,
    let_the_children_live,
    terminate_and_delete_the_logs,
    report_the_end,
    report_the_end_from_inside,
    report_a_finding,
    recover_the_lost,
    recover_after_a_reboot,
    recover_a_lost_family,
]


def begin(scene, prepare):
    return prepare(scene, scene.orchestrator().create_task("tried").id)


def points_of(prepare):
    with a_fake_scene() as scene:
        names = scene.effects(begin(scene, prepare))
        assert [] == wrong_with(scene)
    # Nothing happens between two effects: after one is before the next.
    last = len(names) - 1
    points = [(number, "before", name) for number, name in enumerate(names)]
    return [*points, (last, "after", names[last])]


def wrong_with(scene):
    """Recover twice, then end all agents; return a sentence for each error at any time."""
    scene.fake.pass_time(20)
    scene.orchestrator().recover(force=True)
    scene.fake.pass_time(20)
    odd = scene.world.torn()
    before = scene.world.snapshot()
    again = scene.orchestrator().recover(force=True)
    odd += [f"recovered again: {saga}" for saga in again.unwound]
    if scene.world.snapshot() != before:
        odd += ["the second recovery changed something"]
    orch = scene.orchestrator()
    for agent in orch.agents(status="active"):
        orch.terminate(agent.id)
    task = orch.create_task("another")
    orch.terminate(orch.deploy(task.id, scene.spec()).id)
    return odd + scene.world.torn() + scene.world.leftovers() + list(map(repr, scene.fake.errors))
