"""
The death of an orchestrator at every one of its effects, on the fake; and deaths upon deaths.

Where real tmux has a sample, here is the whole: before and after each effect of
each act, and for a sample of those, death at every effect of the recovery, too.
"""

import pytest
from support.fakes import a_fake_scene

from orchestrator_core.agents import Limits
from orchestrator_core.exceptions import OrchestratorError

NESTED = 9  #: Of so many deaths in an act, one is followed by deaths in its recovery.


# --- the acts: each prepares, and returns what is to be tried ------------------------------------


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
    orch._deployer._refuse_early = lambda *_: None
    return _refused(lambda: orch.deploy(task, scene.spec()))


def terminate(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec("stubborn"))
    return lambda: scene.orchestrator().terminate(agent.id)


def terminate_and_delete_the_logs(scene, task):
    agent = scene.orchestrator().deploy(task, scene.spec())
    return lambda: scene.orchestrator().terminate(agent.id, keep_logs=False)


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
    terminate,
    terminate_and_delete_the_logs,
    report_the_end,
    report_a_finding,
    recover_the_lost,
    recover_after_a_reboot,
]


def _begin(scene, prepare):
    return prepare(scene, scene.orchestrator().create_task("tried").id)


def _points(prepare):
    with a_fake_scene() as scene:
        names = scene.effects(_begin(scene, prepare))
        assert [] == _wrong(scene)
    return [(number, when, name) for number, name in enumerate(names) for when in ("before", "after")]


def _wrong(scene):
    """Recover, once and again, then end all that lives; return what is amiss at any time."""
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


@pytest.mark.parametrize("prepare", ACTS, ids=lambda act: act.__name__)
def test_death_at_every_effect_leaves_all_or_nothing(prepare):
    """However far an act has come when its process dies, recovery ends in all or nothing."""
    wrong = {}
    for number, when, name in _points(prepare):
        with a_fake_scene() as scene:
            act = _begin(scene, prepare)
            scene.until_death(act, number, when)
            if odd := _wrong(scene):
                wrong[f"death {when} {number}: {name}"] = odd
    assert {} == wrong


@pytest.mark.parametrize(
    "prepare", [deploy, deploy_one_too_many, terminate, recover_the_lost], ids=lambda a: a.__name__
)
def test_death_in_the_recovery_of_a_death_is_recovered(prepare, pytestconfig):
    """Recovery may die at any of its effects: the next one finishes what both have left."""
    wrong = {}
    points = _points(prepare)[:: 1 if pytestconfig.getoption("all_points") else NESTED]
    for number, when, name in points:
        recovery, died = 0, True
        while died:
            with a_fake_scene() as scene:
                scene.until_death(_begin(scene, prepare), number, when)
                died = scene.until_death(scene.orchestrator().recover, recovery)
                if odd := _wrong(scene):
                    wrong[f"death {when} {number}: {name}, recovery at {recovery}"] = odd
            recovery += 1
    assert {} == wrong


def test_an_end_from_inside_survives_the_death_of_who_asked_for_it():
    """A caller that dies while it asks for its own end has asked for it, or lives on."""
    wrong = {}
    for number, when, name in _points(report_the_end_from_inside):
        with a_fake_scene() as scene:
            scene.until_death(_begin(scene, report_the_end_from_inside), number, when)
            if odd := _wrong(scene):
                wrong[f"death {when} {number}: {name}"] = odd
    assert {} == wrong
