"""
A SIGKILL of a real process before and after each of its effects, on real tmux.

Each trial has its own root. A process is killed during an act, and another recovers. Then
everything is inspected: an agent that is neither complete nor gone is a failure.
``--all-points`` tries every point; the default is a sample over the whole of each act.
"""

import os
import signal

import pytest
from support.scene import a_scene
from support.world import wait_for_deaths

pytestmark = pytest.mark.tmux

SLEEP = ["sleep", "1000"]
#: An agent that ignores HUP and TERM, with a child in another session that ignores them.
STUBBORN = ["sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & sleep 1000; sleep 1000"]
SAMPLED = 6  #: One of this many points is tried, without --all-points.
PARTS = 2  #: For two processors to share an act.


class Trial:
    """One root, and processes that act on it one after another."""

    def __init__(self, scene, actors):
        self.root = scene.root
        self.world = scene.world
        self._actors = actors
        self.is_left_to_itself = False
        self.task = self.do("create_task")["result"]

    def do(self, act, **how):
        outcome = self._actors.do(act, root=str(self.root), **how)
        assert outcome["killed"] or outcome["status"] == 0, outcome
        return outcome

    def deploy(self, command=SLEEP):
        return self.do("deploy", task=self.task, command=command)["result"]

    def kill_supervisor(self, agent):
        [pane] = self.world.panes(agent)
        os.kill(pane, signal.SIGKILL)
        wait_for_deaths([pane], timeout_s=20)

    def recovered(self):
        """Recover, twice; return what is wrong then."""
        if self.is_left_to_itself:
            assert {} == self.world.until_alone()
        recovery = self.do("recover")["result"]
        odd = self.world.torn() + [f"not recovered: {one}" for one in recovery["failed"].items()]
        before = self.world.snapshot()
        self.do("recover")
        after = self.world.snapshot()
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        return odd + [f"the second recovery changed {name}" for name in sorted(changed)]

    def ended(self):
        """End all agents, use the root once more; return all that is left."""
        for agent, holds in self.world.holdings().items():
            if holds:
                self.do("terminate", agent=agent)
        assert self.do("use", task=self.task)["result"]
        return self.world.leftovers() + self.world.torn()


# --- the acts that are tried: what each finds, and what it does ----------------------------------


def make_a_task(_trial):
    return {"act": "create_task"}


def deploy(trial):
    return {"act": "deploy", "task": trial.task, "command": SLEEP}


def deploy_one_too_many(trial):
    trial.deploy()
    how = {"limits": {"max_concurrent": 1}}
    return {"act": "deploy_unseeing", "task": trial.task, "command": SLEEP, "how": how}


def deploy_what_dies_early(trial):
    trial.is_left_to_itself = True  # The supervisor, if it got so far, sees to the end.
    command = ["sh", "-c", "exit 3"]
    return {"act": "deploy", "task": trial.task, "command": command, "grace_s": 20}


def terminate(trial):
    return {"act": "terminate", "agent": trial.deploy(STUBBORN)}


def report_the_end(trial):
    agent = trial.deploy()
    trial.do("report", agent=agent, status="working")
    return {"act": "report", "agent": agent}


def recover_the_dead(trial):
    trial.kill_supervisor(trial.deploy())
    return {"act": "recover"}


def recover_half_a_deploy(trial):
    trial.do(**deploy(trial), kill_at=("rename .GLOBAL_REGISTRY", "before"))
    return {"act": "recover"}


def recover_half_an_end(trial):
    trial.do("terminate", agent=trial.deploy(), kill_at=("link ", "before"))
    return {"act": "recover"}


ACTS = [
    make_a_task,
    deploy,
    deploy_one_too_many,
    deploy_what_dies_early,
    terminate,
    report_the_end,
    recover_the_dead,
    recover_half_a_deploy,
    recover_half_an_end,
]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("prepare", ACTS, ids=lambda act: act.__name__)
def test_a_kill_at_any_system_call_recovers_to_all_or_nothing(prepare, part, actors, pytestconfig):
    """Whatever a process did when it was killed, the next one finds all or nothing."""
    effects = _rehearsed(prepare, actors)
    sample = 1 if pytestconfig.getoption("all_points") else SAMPLED
    points = [(number, when) for number in range(len(effects)) for when in ("before", "after")]
    tried = points[part * sample :: PARTS * sample]

    wrong, killed = {}, 0
    for point in tried:
        with a_scene() as scene:
            trial = Trial(scene, actors)
            killed += trial.do(**prepare(trial), kill_at=point)["killed"]
            if odd := trial.recovered() or trial.ended():
                wrong[f"killed {point[1]} {point[0]}: {effects[point[0]]}"] = odd

    assert {} == wrong
    # How many locks and signals it takes is not the same in every run.
    assert killed >= 0.8 * len(tried)


def _rehearsed(prepare, actors):
    """Return the effects of an act without a crash."""
    with a_scene() as scene:
        rehearsal = Trial(scene, actors)
        effects = rehearsal.do(**prepare(rehearsal), count=True)["effects"]
        assert [] == rehearsal.recovered()
        assert [] == rehearsal.ended()
        return effects
