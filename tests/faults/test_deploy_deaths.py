"""
The death of an orchestrator at each of its effects, on the fake, and deaths in recoveries.

Real tmux has a sample; here is the whole: before and after each effect of each act, and for
a sample of those, at every effect of the recovery, too.
"""

import pytest
from support.fakes import a_fake_scene
from support.trials import (
    ACTS,
    begin,
    deploy,
    deploy_one_too_many,
    points_of,
    recover_the_lost,
    terminate,
    terminate_a_family,
    wrong_with,
)

NESTED = 12  #: Of so many deaths in an act, one is followed by deaths in its recovery.
IN_A_FAMILY = 8  #: And of those in a family, which has four of everything, one in so many.


@pytest.mark.parametrize("prepare", ACTS, ids=lambda act: act.__name__)
def test_a_death_at_any_effect_leaves_all_or_nothing(prepare):
    """However far an act has come when its process dies, recovery ends in all or nothing."""
    wrong, lived = {}, 0
    points = points_of(prepare)
    for number, when, name in points:
        with a_fake_scene() as scene:
            lived += not scene.until_death(begin(scene, prepare), number, when)
            if odd := wrong_with(scene):
                wrong[f"death {when} {number}: {name}"] = odd
    assert {} == wrong
    # The ids decide the order in which a family is recovered; one order has fewer calls.
    assert lived <= len(points) // 20


@pytest.mark.parametrize(
    "prepare",
    [deploy, deploy_one_too_many, terminate, terminate_a_family, recover_the_lost],
    ids=lambda a: a.__name__,
)
def test_a_death_during_the_recovery_of_a_death_is_recovered(prepare, pytestconfig):
    """A recovery may die at any of its effects: the next one finishes what both have left."""
    wrong = {}
    sparse = 1 if prepare is not terminate_a_family else IN_A_FAMILY
    sparse, nested = (1, 1) if pytestconfig.getoption("all_points") else (sparse, sparse * NESTED)
    for number, when, name in points_of(prepare)[::nested]:
        recovery, died = 0, True
        while died:
            with a_fake_scene() as scene:
                scene.until_death(begin(scene, prepare), number, when)
                died = scene.until_death(scene.orchestrator().recover, recovery)
                if odd := wrong_with(scene):
                    wrong[f"death {when} {number}: {name}, recovery at {recovery}"] = odd
            recovery += sparse
    assert {} == wrong
