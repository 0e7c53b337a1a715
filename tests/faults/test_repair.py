"""
Registries that are damaged, edited by hand or missing are repaired, with nothing lost.

The files are real; sessions and processes are the fake's.
"""

import json
import threading

import pytest
from support.fakes import a_fake_scene

from orchestrator_core.exceptions import NotFound

LEGACY = {
    "id": "old-101010-abcdef",
    "type": "old",
    "tmux_session": "agent_old-101010-abcdef",
    "parent": "orchestrator",
    "depth": 2,
    "status": "completed",
    "started_at": "2025-10-01T10:10:10.123456",
    "progress": 100,
    "prompt": "an agent of another system, without a journal",
    "its_own": {"kept": ["as", "it", "was"]},
}


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


def in_front(**values):
    """Return a change that puts fields first, where a truncated file still has them."""

    def change(document):
        rest = dict(document)
        document.clear()
        document.update(values, **rest)

    return change


class Root:
    """A root with one task: live agents, an ended one, a child and a legacy agent."""

    def __init__(self, scene):
        self.scene = scene
        self.orch = orch = scene.orchestrator()
        self.task = orch.create_task("find it", priority="P1", client_cwd="/x", key="one").id
        self.alive, self.reports, self.ended = (
            orch.deploy(self.task, scene.spec()).id for _ in range(3)
        )
        self.child = orch.deploy(self.task, scene.spec(parent=self.alive)).id
        orch.report_progress(self.reports, "blocked", message="half of it", progress=50)
        orch.terminate(self.ended, reason="enough")
        self.registry = scene.root / self.task / "AGENT_REGISTRY.json"
        self.everything = scene.root / "registry" / "GLOBAL_REGISTRY.json"
        self.edit(lambda document: document["agents"].insert(1, dict(LEGACY)))
        self.edit(in_front(theirs={"note": "keep me"}))
        self.edit(lambda document: document["agents"][0].update(mine="keep me, too"))
        orch.repair()  # From here on, the counters include the edits.

    def edit(self, change, path=None):
        """Change a registry as an editor does: without a lock."""
        path = path or self.registry
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))

    def document(self, path=None):
        return json.loads((path or self.registry).read_bytes())

    def record(self, agent):
        return next(each for each in self.document()["agents"] if each["id"] == agent)

    def status(self):
        return {each["id"]: each["status"] for each in self.document()["agents"]}

    def wrong(self):
        """Return what a repair would change."""
        report = self.orch.repair(dry_run=True)
        return [
            (one.registry, one.state, one.differences)
            for one in report.repairs
            if not one.is_consistent
        ]


@pytest.fixture
def root(scene):
    return Root(scene)


def without_copies(document):
    return {name: value for name, value in document.items() if name != "damaged"}


def same(document, other):
    """Return whether two documents are equal but for the order of agents."""
    return by_agent(document) == by_agent(other)


def by_agent(document):
    agents = {each["id"]: each for each in document["agents"]}
    return {**without_copies(document), "agents": agents}


def unordered(value):
    """Return a hierarchy without its order, which is lost with a damaged line."""
    if not isinstance(value, dict):
        return value
    return {name: set(each) if isinstance(each, list) else each for name, each in value.items()}


# --- nothing to repair ----------------------------------------------------------------------------


def test_a_consistent_registry_is_not_changed(root):
    before = root.scene.world.snapshot()

    report = root.orch.repair()

    assert report.clean
    assert all(one.is_consistent for one in report.repairs)
    assert before == root.scene.world.snapshot()


def test_a_dry_run_changes_nothing(root):
    root.registry.write_bytes(root.registry.read_bytes()[:-90])
    root.everything.write_bytes(b"")
    before = root.scene.world.snapshot()

    report = root.orch.repair(dry_run=True)

    assert ["damaged", "damaged"] == [one.state for one in report.repairs]
    assert not report.clean
    assert before == root.scene.world.snapshot()


def test_a_task_that_does_not_exist_is_not_created(root):
    with pytest.raises(NotFound, match="TASK-none"):
        root.orch.repair("TASK-none")
    assert not (root.scene.root / "TASK-none").exists()


# --- damage --------------------------------------------------------------------------------------

DAMAGE = {
    "flipped": lambda data, at: data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :],
    "zeroed": lambda data, at: data[:at] + bytes(len(data[at : at + 200])) + data[at + 200 :],
    "cut off": lambda data, at: data[:at],
    "empty": lambda _data, _at: b"",
}
SAMPLE = 61  #: Distance in bytes between the places that are damaged.


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_registry_loses_nothing_that_can_be_parsed(damage, root):
    """Agents with a journal keep all fields. The others keep every whole line."""
    whole = root.registry.read_bytes()
    expected = by_agent(json.loads(whole))
    tried = 0
    for at in range(0, len(whole), SAMPLE if damage != "empty" else len(whole)):
        broken = DAMAGE[damage](whole, at)
        root.registry.write_bytes(broken)

        assert root.orch.repair().clean, at  # A damaged status may count as another.
        found = by_agent(root.document())

        assert [] == lost(broken, expected, found), at
        assert [] == root.wrong(), at
        for quarantined in root.registry.parent.glob("*.damaged-*"):
            assert [] == wrong_about_the_known(root, expected, found), at
            assert broken == quarantined.read_bytes(), at
            quarantined.unlink()
            tried += 1
    assert tried or damage == "flipped"


def lost(broken, expected, found):
    """Return what is on a whole line of the damaged file, and missing after the repair."""
    gone = []
    for line in broken.split(b"\n"):
        text = line.strip().rstrip(b",")
        for candidate in (text, b"{" + text + b"}"):
            try:
                value = json.loads(candidate)
            except ValueError:
                continue
            if isinstance(value, dict) and value == expected["agents"].get(value.get("id")):
                if not value.items() <= found["agents"].get(value["id"], {}).items():
                    gone.append(value)
            elif isinstance(value, dict) and "agent_hierarchy" in value:
                family = [child for some in found["agent_hierarchy"].values() for child in some]
                gone += [child for child in found["agents"] if child not in family]
            elif isinstance(value, dict) and value.items() <= expected.items():
                gone += [
                    (name, stood)
                    for name, stood in value.items()
                    if (name, stood) not in found.items() and name not in _COUNTED
                ]
    return gone


#: Derived from the records, of which a damaged status may be another.
_COUNTED = {"total_spawned", "active_count", "completed_count"}

#: Fields that no journal and no report has, or that differ by a millisecond after a repair.
_ONLY_THERE = {"mine", "completed_at", "last_update", "terminated_at", "auto_cleanup_timestamp"}


def wrong_about_the_known(root, expected, found):
    """Return the differences of the agents that have a journal."""
    agents = (root.alive, root.reports, root.ended, root.child)
    return [
        (agent, name, value, found["agents"].get(agent, {}).get(name))
        for agent in agents
        for name, value in expected["agents"][agent].items()
        if name not in _ONLY_THERE and found["agents"].get(agent, {}).get(name) != value
    ]


@pytest.mark.parametrize("where", ["a task's", "the global"])
def test_a_reader_that_meets_damage_repairs_it_in_the_same_way(where, root):
    """The first reader of a damaged registry gets what a repair would write."""
    path = root.registry if where == "a task's" else root.everything
    expected = root.document(path)
    path.write_bytes(path.read_bytes()[:-200])

    root.scene.orchestrator().report_finding(root.alive, "after the damage")
    root.scene.orchestrator().create_task("another")

    assert [] == root.wrong()
    found = root.document(path)
    for name in ("agents", "theirs", "agent_hierarchy", "ended"):
        if name in expected and name != "agents":
            assert unordered(expected[name]) == unordered(found[name])
    assert len(expected["agents"]) == len(found["agents"])


def test_a_missing_registry_is_rebuilt(root):
    """Without a damaged copy, the journals are the source."""
    expected = by_agent(root.document())
    root.registry.unlink()
    root.everything.unlink()

    [task, everything] = root.scene.orchestrator().repair().repairs

    assert ("missing", root.task) == (task.state, task.task_id)
    found = by_agent(root.document())
    assert [] == wrong_about_the_known(root, expected, found)
    assert {root.alive, root.reports, root.child} == root.document(root.everything)["agents"].keys()
    assert everything.task_id is None
    assert [] == root.wrong()


def test_a_directory_in_a_registrys_place_is_moved_away(root):
    root.registry.unlink()
    root.registry.mkdir()
    (root.registry / "something").touch()

    [repair] = root.orch.repair(root.task).repairs

    assert repair.kept is not None
    assert {root.alive, root.reports, root.ended, root.child} <= root.status().keys()


def test_repeated_damage_loses_nothing(root):
    """The records parsed from the first copy stay after the second copy, which is empty."""
    root.registry.write_bytes(root.registry.read_bytes()[:-30])
    root.orch.repair()
    assert LEGACY["id"] in root.status()
    root.registry.write_bytes(b"")

    root.orch.repair()

    assert LEGACY == root.record(LEGACY["id"])
    assert {"note": "keep me"} == root.document()["theirs"]
    assert 2 == len(list(root.registry.parent.glob("*.damaged-*")))


def test_a_record_with_a_damaged_id_is_known_by_its_session(root):
    """No reader notices a flipped bit that leaves valid JSON; the journals show it."""
    data = root.registry.read_bytes()
    name = root.alive.encode()
    root.registry.write_bytes(data.replace(b'"id": "' + name, b'"id": "x' + name[1:]))

    [repair] = root.orch.repair(root.task).repairs

    assert "whole" == repair.state
    assert root.alive in root.status()
    assert 5 == len(root.status())
    assert "keep me, too" == root.record(root.alive)["mine"]


# --- mismatches ---------------------------------------------------------------------------------


def test_a_repair_takes_living_and_ended_agents_from_the_journals(root):
    """An editor ended a live agent and revived an ended one; nothing else changes."""
    before = by_agent(root.document())

    def confuse(document):
        for each in document["agents"]:
            if each["id"] == root.reports:
                each.update(status="completed", completed_at="never", end_reason="by hand")
            elif each["id"] == root.ended:
                each["status"] = "running"

    root.edit(confuse)
    report = root.orch.repair(root.task)

    changes = {each.agent_id: each for each in report.repairs[0].differences}
    assert {
        root.reports,
        root.ended,
    } == changes.keys()  # One more and one less: the counters are right.
    assert {"status": "completed", "completed_at": "never", "end_reason": "by hand"} == (
        changes[root.reports].was
    )
    assert {"status": "blocked"} == changes[root.reports].becomes
    assert "terminated" == changes[root.ended].becomes["status"]
    found = by_agent(root.document())
    assert [] == wrong_about_the_known(root, before, found)


def test_a_task_with_an_agent_again_is_counted_once(scene):
    """Without agents the task was past; it is the same task when it has one again."""
    orch = scene.orchestrator()
    task = orch.create_task("again").id
    orch.terminate(orch.deploy(task, scene.spec()).id)
    orch.deploy(task, scene.spec())

    assert orch.repair(dry_run=True).clean
    assert 1 == scene.world.totals()["total_tasks"]


def test_an_agent_that_was_rolled_back_has_no_record(root):
    with pytest.raises(Exception, match="was not deployed"):
        root.orch.deploy(root.task, root.scene.spec("refuses"))
    [never] = {path.stem for path in (root.scene.root / "sagas/closed").iterdir()} - {root.ended}
    ghost = {"id": never, "type": "a", "status": "running", "parent": "orchestrator"}
    root.edit(lambda document: document["agents"].append(ghost))

    [repair] = root.orch.repair(root.task).repairs

    assert ("removed", never) == (repair.differences[-1].kind, repair.differences[-1].agent_id)
    assert never not in root.status()
    assert never not in root.document()["agent_hierarchy"]["orchestrator"]


def test_records_whose_journals_are_gone_stay_as_they_are(root):
    """Retention removes journals; then the record is the only source."""
    expected = root.record(root.ended)
    (root.scene.root / f"sagas/closed/{root.ended}.jsonl").unlink()

    assert [] == root.wrong()
    root.registry.write_bytes(root.registry.read_bytes()[:-30])
    root.orch.repair()

    assert expected == root.record(root.ended)
    assert 1 == root.document(root.everything)["ended"]["terminated"]


def test_a_damaged_journal_does_not_remove_its_agents_record(root):
    """The valid lines are enough, and recovery rebuilds the journal later."""
    path = root.scene.root / f"sagas/{root.alive}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"commit"', b'"c0mmit"', 1) + b"{}\n")
    root.registry.write_bytes(b"")

    root.orch.repair()

    assert "running" == root.status()[root.alive]
    root.orch.recover()
    assert [] == root.wrong()
    assert root.orch.terminate(root.alive).success


def test_a_repaired_global_registry_lists_live_agents_and_counts_ended_ones(root):
    expected = root.document(root.everything)

    def confuse(document):
        document["agents"].pop(root.alive)
        document["agents"][root.ended] = {"task_id": root.task, "type": "a"}
        document["ended"] = {}
        document["theirs"] = 1

    root.edit(confuse, root.everything)
    report = root.orch.repair(only_global=True)

    assert {"added", "removed", "changed"} == {each.kind for each in report.repairs[0].differences}
    found = root.document(root.everything)
    assert 1 == found.pop("theirs")
    assert expected == found | {
        "agents": {name: found["agents"][name] for name in expected["agents"]}
    }


def test_counts_of_tasks_that_are_gone_survive_a_damaged_global_registry(root):
    """The totals of a root never decrease, even after an export and damage."""
    root.edit(lambda document: document["ended"].update(failed=7), root.everything)
    root.edit(lambda document: document.update(past_tasks=5), root.everything)
    root.orch.repair()
    data = root.everything.read_bytes()
    root.everything.write_bytes(data.replace(b'"active_agents"', b"active_agents", 1))

    root.orch.repair()

    found = root.document(root.everything)
    assert (7, 5) == (found["ended"]["failed"], found["past_tasks"])
    assert "one" == found["tasks"][root.task]["key"]


def test_an_agent_keeps_its_key_when_the_global_registry_is_lost(root):
    """A second deployment with the key returns the first agent."""
    first = root.orch.deploy(root.task, root.scene.spec(key="only-one"))
    root.everything.write_bytes(b"")

    second = root.scene.orchestrator().deploy(root.task, root.scene.spec(key="only-one"))

    assert first.id == second.id


# --- concurrency ---------------------------------------------------------------------------------


def test_reports_overwritten_by_an_editor_are_restored_by_repair(root):
    """Agents report while an editor rewrites the registry without a lock."""
    agents, reports = (root.alive, root.reports, root.child), 15
    failed = []

    def report(agent):
        orch = root.scene.orchestrator()
        try:
            for number in range(1, reports + 1):
                orch.report_progress(agent, "working", message=f"{agent} {number}", progress=number)
        except Exception as error:  # noqa: BLE001 - asserted below
            failed.append(error)

    workers = [threading.Thread(target=report, args=(agent,)) for agent in agents]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        root.edit(lambda document: document.update(edited=document.get("edited", 0) + 1))
        root.orch.repair()
    for worker in workers:
        worker.join()
    root.orch.repair()

    assert [] == failed
    for agent in agents:
        record = root.record(agent)
        assert (f"{agent} {reports}", reports) == (record["message"], record["progress"])
    assert LEGACY == root.record(LEGACY["id"])
    assert [] == root.wrong()


@pytest.mark.parametrize("act", ["deploy", "terminate"])
def test_a_repair_in_the_middle_of_a_crashed_operation_leaves_all_or_nothing(act):
    """The registries are lost at the crash and rebuilt; then recovery finishes the operation."""
    number, tried = 0, 0
    while True:
        with a_fake_scene() as scene:
            task = scene.orchestrator().create_task("tried").id
            if act == "deploy":

                def doing(scene=scene, task=task):
                    scene.orchestrator().deploy(task, scene.spec())
            else:
                agent = scene.orchestrator().deploy(task, scene.spec()).id

                def doing(scene=scene, agent=agent):
                    scene.orchestrator().terminate(agent)

            if not scene.until_death(doing, number):
                break
            for path in (
                scene.root / task / "AGENT_REGISTRY.json",
                scene.root / "registry/GLOBAL_REGISTRY.json",
            ):
                path.write_bytes(b"")
            scene.orchestrator().repair()
            scene.orchestrator().recover(force=True)
            odd = scene.world.torn()
            assert [] == odd, f"crashed before effect {number}"
            assert scene.orchestrator().repair(dry_run=True).clean, number
        number += 3
        tried += 1
    assert tried > 8
