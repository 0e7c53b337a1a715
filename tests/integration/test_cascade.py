"""
An agent ends with its parent: descendants first, by every kind of end.

Most tests use the fake, which allows every order of events; those of real processes come last.
"""

import contextlib
import json
import threading
from pathlib import Path

import pytest
from support.fakes import a_fake_scene

from orchestrator_core import Status
from orchestrator_core.deployment import deployer, steps
from orchestrator_core.deployment.steps import OwnChildren, RegisterTask
from orchestrator_core.exceptions import DeploymentError, WaitTimeout
from orchestrator_core.model.outcome import terminal_reason
from orchestrator_core.saga import Observer
from orchestrator_core.saga.encoding import make_entry


class Closings(Observer):
    """The agents that ended, in order; an observer of one of them can be set."""

    def __init__(self, awaited=None):
        self.ids = []
        self.awaited = awaited
        self.came = threading.Event()

    def saga_closed(self, saga_id, report):  # noqa: ARG002 - the observer's own words
        self.ids.append(saga_id)
        if saga_id == self.awaited:
            self.came.set()


class Family:
    """A parent, two children, and a child of the first."""

    def __init__(self, scene, *, script="lives"):
        self.scene = scene
        self.orch = scene.orchestrator()
        self.task = self.orch.create_task("tried").id
        self.parent = self.add(None)
        self.first = self.add(self.parent, script)
        self.second = self.add(self.parent)
        self.grandchild = self.add(self.first)

    def add(self, parent, script="lives", **how):
        return self.orch.deploy(self.task, self.scene.spec(script, parent=parent), **how).id

    @property
    def below(self):
        return {self.first, self.second, self.grandchild}

    def record(self, agent):
        return self.scene.world.records()[agent]

    def statuses(self):
        return {self.record(agent)["status"] for agent in self.below}


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def family(scene):
    return Family(scene)


def left(scene):
    """Return all that is left of any agent, and all that is wrong."""
    return scene.world.leftovers() + scene.world.torn() + scene.fake.errors


# --- in one report ------------------------------------------------------------------------------


def test_descendants_end_before_their_parents(scene, family):
    """The order is depth first, and every observer and report shows it."""
    closings = Closings()

    scene.orchestrator(observer=closings).terminate(family.parent)

    assert [family.grandchild, family.first, family.second, family.parent] == closings.ids
    assert [] == left(scene)


def test_one_report_has_all_agents_that_ended(family):
    """Each child's report is whole, with its own children in it, and is JSON."""
    end = family.orch.terminate(family.parent, reason="done with it")

    assert [family.first, family.second] == [child.agent_id for child in end.children]
    assert [family.grandchild] == [child.agent_id for child in end.children[0].children]
    for child in (*end.children, *end.children[0].children):
        assert ("terminated", "parent", True, True) == (
            child.status,
            child.by,
            child.success,
            child.verified_no_zombies,
        )
        assert child.archived_files
        assert len(child.steps) == len(end.steps)
    assert "terminated" == json.loads(json.dumps(end.to_dict()))["children"][0]["status"]
    assert end == family.orch.terminate(family.parent)  # Read from the journals, years later.
    assert f"its parent {family.parent} has ended" == family.record(family.second)["end_reason"]
    recorded_children = family.record(family.parent)["auto_cleanup_result"]["children"]
    assert [family.first, family.second] == recorded_children  # Their own records have the rest.


def test_the_childrens_logs_stay_or_go_with_the_parents(scene, family):
    """Without logs for the parent, the children's logs are deleted, too."""
    family.orch.terminate(family.parent, keep_logs=False)

    assert [] == scene.world.files("TASK-*/archive/*")
    assert [] == left(scene)


def test_a_child_that_ended_before_is_not_in_the_report(family):
    """The report has only children that the parent's end has ended."""
    family.orch.report_progress(family.second, "completed")

    end = family.orch.terminate(family.parent)

    assert [family.first] == [child.agent_id for child in end.children]
    assert "completed" == family.record(family.second)["status"]


# --- however the parent ends ---------------------------------------------------------------------


def report(family):
    family.orch.report_progress(family.parent, "completed")


def report_from_inside(family):
    with family.scene.fake.inside(f"agent_{family.parent}"):
        assert family.orch.report_progress(family.parent, "completed").end.handed_over


def exit_by_itself(family):
    family.scene.fake.exit(f"agent_{family.parent}", 0)


def crash(family):
    family.scene.fake.exit(f"agent_{family.parent}", signum=9)


def lose_its_supervisor(family):
    family.scene.fake.kill_supervisor(f"agent_{family.parent}")
    family.orch.recover()


def wait_for_the_end(family):
    family.scene.fake.kill_supervisor(f"agent_{family.parent}")
    family.orch.wait(family.parent, timeout_s=5)


def die_with_its_owner_half_way(family):
    scene = family.scene
    twins = Family(scene)
    effects = scene.effects(lambda: scene.orchestrator().terminate(twins.parent))
    # In the middle of its first child: its grandchild is gone, its other child lives.
    number = [i for i, name in enumerate(effects) if name == "processes.terminate_all"][1]
    assert scene.until_death(lambda: scene.orchestrator().terminate(family.parent), number)
    assert "running" == family.record(family.second)["status"]
    family.orch.recover()


ENDS = {
    report: "completed",
    report_from_inside: "completed",
    exit_by_itself: "completed",
    crash: "failed",
    lose_its_supervisor: "error",
    wait_for_the_end: "error",
    die_with_its_owner_half_way: "terminated",
}


@pytest.mark.parametrize("happen", ENDS, ids=lambda happen: happen.__name__)
def test_children_end_with_their_parent_by_every_kind_of_end(happen, scene, family):
    """The parent's end keeps its reason; the children's reason is the parent's end."""
    happen(family)
    scene.fake.pass_time(20)

    assert ENDS[happen] == family.record(family.parent)["status"]
    assert {"terminated"} == family.statuses()
    assert {f"its parent {family.parent} has ended", f"its parent {family.first} has ended"} == {
        family.record(agent)["end_reason"] for agent in family.below
    }
    assert [] == left(scene)


def test_a_reboot_loses_each_agent_by_its_own_end(scene, family):
    """Each dead agent gets its own end, in any order of recovery."""
    scene.fake.reboot()

    family.orch.recover()

    assert {"error"} == family.statuses()
    assert [] == left(scene)


def test_a_deployment_that_fails_in_its_grace_ends_the_children_it_has_had_by_then(scene):
    """The parent never came to be, and so no agent stays its child."""
    orch = scene.orchestrator()
    task, children = orch.create_task("tried").id, []

    class Hasty(Observer):
        def saga_committed(self, saga_id):
            # As by the agent itself, in the moment that it has.
            spec = scene.spec("lives", parent=saga_id)
            children.append(scene.orchestrator().deploy(task, spec).id)

    with pytest.raises(DeploymentError) as raised:
        scene.orchestrator(observer=Hasty()).deploy(task, scene.spec("dies-early"), grace_s=1)

    assert {"children": True}.items() <= raised.value.resources_cleaned.items()
    [child] = children
    assert "terminated" == scene.world.records()[child]["status"]
    assert [] == left(scene)


# --- without cascade -----------------------------------------------------------------------------


def test_children_live_on_as_the_orchestrators_without_cascade(scene, family):
    """This holds in both registries and the hierarchy. The depths stay as they were."""
    end = family.orch.terminate(family.parent, cascade=False)

    assert (True, ()) == (end.success, end.children)
    assert {"running"} == family.statuses()
    assert [("orchestrator", 2), ("orchestrator", 2), (family.first, 3)] == [
        (family.record(one)["parent"], family.record(one)["depth"])
        for one in (family.first, family.second, family.grandchild)
    ]
    parents = [scene.world.entries()[one]["parent"] for one in (family.first, family.second)]
    assert ["orchestrator", "orchestrator"] == parents
    [path] = scene.root.glob("TASK-*/AGENT_REGISTRY.json")
    hierarchy = json.loads(path.read_text())["agent_hierarchy"]
    assert {
        "orchestrator": [family.parent, family.first, family.second],
        family.first: [family.grandchild],
    } == hierarchy
    assert [] == scene.world.torn()


def test_a_released_child_has_its_own_end_with_its_own_children(scene, family):
    """No record mentions the parent that it once had."""
    family.orch.terminate(family.parent, cascade=False)

    assert [family.grandchild] == [
        child.agent_id for child in family.orch.terminate(family.first).children
    ]
    family.orch.terminate(family.second)
    assert [] == left(scene)


# --- a child that cannot be ended ----------------------------------------------------------------


def test_a_child_that_cannot_be_ended_is_named_and_stops_no_other_end(scene):
    """Only this child makes its parent STUCK. The child's sister and their resources are gone."""
    family = Family(scene, script="unkillable")

    end = family.orch.terminate(family.parent)

    assert not end.success
    assert ["accept_children"] == [s["step"] for s in end.steps if s["result"] == "failed"]
    assert family.first in end.errors[0]
    assert {family.first: False, family.second: True} == {
        child.agent_id: child.success for child in end.children
    }
    assert {"spawn_tmux", "run"}.isdisjoint(scene.world.holdings()[family.parent])
    assert set() == scene.world.holdings()[family.second]
    assert {family.parent, family.first} == set(family.orch.recover(force=True).stuck)

    [survivor] = [one for one in scene.fake.alive() if one.unkillable]
    survivor.unkillable = False
    family.orch.recover(force=True)

    assert {family.first, family.second} == {
        child.agent_id for child in family.orch.wait(family.parent, timeout_s=5).children
    }
    assert [] == left(scene)


def test_a_child_that_cannot_be_ended_is_not_retried_by_every_generation(scene):
    """Each level tries once: otherwise five generations would take half an hour to give up."""
    orch = scene.orchestrator()
    task, agent = orch.create_task("tried").id, None
    for script in ("lives", "lives", "lives", "lives", "unkillable"):
        agent = orch.deploy(task, scene.spec(script, parent=agent)).id
    top = next(a for a, r in scene.world.records().items() if r["depth"] == 1)
    before = scene.fake.now

    orch.terminate(top)

    assert scene.fake.now - before < 30
    for survivor in scene.fake.alive():
        survivor.unkillable = False
    orch.recover(force=True)
    assert [] == left(scene)


def test_a_child_record_without_a_saga_delays_no_end(scene, family):
    """The sweep finds that record; the end does not wait for it."""
    _edit_registry(
        scene,
        lambda document: document["agents"].append(
            {"id": "b-000000-abcdef", "type": "b", "parent": family.parent, "status": "running"}
        ),
    )

    assert family.orch.terminate(family.parent).success


# --- all at once ---------------------------------------------------------------------------------


def test_a_child_that_exits_during_its_parents_end_has_its_own_end(scene, family):
    """The process that ends the child holds its lock: the parent's end waits for its report."""
    with (
        family.orch._terminator.sagas.open(family.second) as held,
        _meanwhile(family, until_closed=family.first) as ends,
    ):
        assert [] == ends
        held.unwind(terminal_reason(Status.COMPLETED, "all done", by="report"))

    [end] = ends
    assert {family.first: "parent", family.second: "report"} == {
        child.agent_id: child.by for child in end.children
    }
    assert "completed" == family.record(family.second)["status"]
    assert [] == left(scene)


def test_a_child_that_is_deployed_during_its_parents_end_is_not_left_over(
    scene, family, monkeypatch
):
    """The parent's end comes before the child's record: the child is refused and leaves nothing."""
    original = RegisterTask.do

    def do(self, receipt):
        monkeypatch.undo()
        scene.orchestrator().terminate(family.parent)
        return original(self, receipt)

    monkeypatch.setattr(RegisterTask, "do", do)
    with pytest.raises(DeploymentError, match="has ended"):
        family.add(family.parent)

    assert [] == left(scene)


def test_the_end_waits_for_a_half_deployed_child_and_ends_it(scene, family, monkeypatch):
    """The child has a record and its deployment goes on. Only its deployer may undo it first."""
    original, stack = RegisterTask.do, contextlib.ExitStack()
    late = []

    def do(self, receipt):
        late.append(receipt.agent_id)
        written = original(self, receipt)
        monkeypatch.undo()
        late.append(stack.enter_context(_meanwhile(family, until_closed=family.second)))
        return written

    monkeypatch.setattr(RegisterTask, "do", do)
    # The child's deployer may get the start first, or the end.
    with stack, contextlib.suppress(DeploymentError):
        family.add(family.parent)

    child, [end] = late
    assert child == end.children[-1].agent_id
    assert [] == left(scene)


def test_a_cycle_of_parents_in_a_registry_ends_no_agent_twice_and_blocks_none(scene, family):
    """Locks are taken from parents to children only, whatever a registry contains."""
    _edit_registry(scene, lambda document: _set(document, family.parent, parent=family.grandchild))

    assert family.orch.terminate(family.first).success
    assert "running" == family.record(family.parent)["status"]
    assert family.orch.terminate(family.parent).success
    assert [] == left(scene)


def test_an_agent_of_a_release_without_this_step_ends_without_its_children(scene, monkeypatch):
    """The agent's journal has no step for children. Only the steps in the journal are undone."""
    monkeypatch.setattr(deployer, "STEPS", [step for step in steps.STEPS if step != OwnChildren])
    family = Family(scene)
    monkeypatch.undo()

    assert family.orch.terminate(family.parent).success
    assert {"running"} == family.statuses()
    assert family.orch.terminate(family.first).success
    assert family.orch.terminate(family.second).success
    assert family.orch.terminate(family.grandchild).success
    assert [] == scene.world.leftovers()


def test_a_journal_that_lost_the_step_is_planned_again_with_it(scene, family):
    """The names that an id leads to include its children."""
    path = scene.root / "sagas" / f"{family.parent}.jsonl"
    lines = path.read_bytes().split(b"\n")
    damaged = [line for line in lines if b'"intent","step":"accept_children"' not in line]
    path.write_bytes(b"\n".join([damaged[0][:-20], *damaged[1:]]))

    [quarantined] = family.orch.recover().damaged.values()
    assert family.orch.terminate(family.parent).success

    assert {"terminated"} == family.statuses()
    Path(quarantined).unlink()
    assert [] == left(scene)


# --- from inside of what ends --------------------------------------------------------------------


@pytest.mark.parametrize("relative", ["first", "grandchild"])
def test_an_agent_that_ends_its_own_parent_hands_the_end_over(relative, scene, family):
    """The parent's end would kill the caller, so the parent's supervisor ends both."""
    with scene.fake.inside(f"agent_{getattr(family, relative)}"):
        end = scene.orchestrator().terminate(family.parent, reason="my parent hangs")
        assert (True, "terminated") == (end.handed_over, end.status)
        assert "running" == family.record(family.parent)["status"]

    scene.fake.pass_time(20)

    assert "my parent hangs" == family.record(family.parent)["end_reason"]
    assert {"terminated"} == family.statuses()
    assert [] == left(scene)


def test_an_agent_spared_by_cascade_can_end_its_parent_itself(scene, family):
    """Without cascade it is no part of what ends."""
    with scene.fake.inside(f"agent_{family.first}"):
        end = scene.orchestrator().terminate(family.parent, cascade=False)

    assert (False, True) == (end.handed_over, end.success)
    assert {"running"} == family.statuses()


def test_children_leave_a_lost_parent_to_another_process(scene, family):
    """A recovery from inside a child would end itself half-way; another process can recover."""
    scene.fake.kill_supervisor(f"agent_{family.parent}")
    with scene.fake.inside(f"agent_{family.grandchild}"):
        orch = scene.orchestrator()
        assert {} == orch.recover().unwound
        with pytest.raises(WaitTimeout):
            orch.wait(family.parent, timeout_s=0)
    assert {"running"} == family.statuses()

    assert family.parent in family.orch.recover().unwound
    assert [] == left(scene)


def test_children_leave_their_parents_half_done_end_to_another_process(scene, family):
    """The same holds when the owner of the end has died half-way."""
    with family.orch._terminator.sagas.open(family.parent) as saga:
        # As it is when he dies just then.
        saga._write(
            make_entry("unwind", why=terminal_reason(Status.FAILED, "it crashed", by="exit"))
        )
    with scene.fake.inside(f"agent_{family.first}"):
        found = scene.orchestrator().recover()
    assert ({}, (family.parent,)) == (found.unwound, found.busy)

    family.orch.recover()

    assert {"terminated"} == family.statuses()
    assert [] == left(scene)


def test_a_record_made_active_again_during_its_end_is_ended_again(scene, family):
    """This happens between two undos: before the end is over, a child could still join."""

    class Edits(Observer):
        def step_undone(self, saga_id, report):
            if (saga_id, report.step) == (family.parent, "register_task"):
                _edit_registry(
                    scene, lambda document: _set(document, family.parent, status="running")
                )

    report = scene.orchestrator(observer=Edits()).terminate(family.parent)

    assert report.success
    assert {"terminated"} == {family.record(family.parent)["status"], *family.statuses()}
    assert family.orch.sweep().clean
    assert [] == scene.world.leftovers()


@contextlib.contextmanager
def _meanwhile(family, *, until_closed):
    """Let a thread end the parent; go on when it has closed a child, and join it at the end."""
    closings, ends = Closings(until_closed), []
    orch = family.scene.orchestrator(observer=closings)
    other = threading.Thread(target=lambda: ends.append(orch.terminate(family.parent)))
    other.start()
    assert closings.came.wait(20)
    yield ends
    other.join(40)


def _edit_registry(scene, change):
    [path] = scene.root.glob("TASK-*/AGENT_REGISTRY.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _set(document, agent, **values):
    next(record for record in document["agents"] if record["id"] == agent).update(values)
