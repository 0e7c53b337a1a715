"""Lists of tasks and agents while some registry cannot be read: the rest is shown, and why."""

from __future__ import annotations

import json
import threading

import pytest
from support.fakes import a_fake_scene

from orchestrator_core import cli
from orchestrator_core.cli import commands
from orchestrator_core.exceptions import CouldNotAsk, NotFound, RegistryTooNew
from orchestrator_core.model.limits import Limits
from orchestrator_core.model.records import Agent, Task


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


def too_new(path):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": 99}))


def removed(path):
    path.unlink()


def names(found):
    return sorted(each.id for each in found)


@pytest.mark.parametrize("harm", [too_new, removed])
def test_a_registry_that_cannot_be_read_hides_neither_other_tasks_nor_live_agents(
    scene, orch, harm, capsys, monkeypatch
):
    """The live agents of its task are in the global registry."""
    good, bad = (orch.create_task(name).id for name in ("good", "bad"))
    listed, hidden = (orch.deploy(task, scene.spec()).id for task in (good, bad))
    assert {} == orch.unreadable
    path = scene.root / bad / "AGENT_REGISTRY.json"
    harm(path)

    agents = orch.agents()

    assert sorted([listed, hidden]) == names(agents) == names(orch.agents(status="active"))
    assert {good, bad} == {agent.task_id for agent in agents}
    assert [str(path)] == list(orch.unreadable)
    assert [hidden] == names(orch.agents(task_id=bad))
    assert [good] == names(orch.tasks())
    assert (listed, hidden) == (orch.agent(listed).id, orch.agent(hidden).id)

    monkeypatch.setattr(commands, "Orchestrator", lambda _root, **_how: orch)
    assert 4 == cli.main(["--root", str(scene.root), "ps"])
    shown = capsys.readouterr()
    assert listed in shown.out
    assert hidden in shown.out
    assert f"unknown: {path}" in shown.err


def test_what_could_be_read_again_is_no_longer_unreadable(scene, orch):
    task = orch.create_task("a task").id
    path = scene.root / task / "AGENT_REGISTRY.json"
    before = path.read_bytes()
    too_new(path)
    assert [] == orch.tasks()
    path.write_bytes(before)

    assert [task] == names(orch.tasks())
    assert {} == orch.unreadable


def test_an_agent_of_no_readable_registry_is_unknown_and_not_missing(scene, orch):
    task = orch.create_task("a task").id
    with pytest.raises(NotFound):
        orch.agent("nobody-120000-abcdef")
    path = scene.root / task / "AGENT_REGISTRY.json"
    too_new(path)

    with pytest.raises(CouldNotAsk, match=f"{task}.*version 99"):
        orch.agent("nobody-120000-abcdef")
    with pytest.raises(RegistryTooNew):
        orch.task(task)


def test_a_task_that_is_removed_during_a_listing_is_left_out(scene, orch):
    made = [orch.create_task(f"task {number}").id for number in range(20)]
    errors, over = [], threading.Event()

    def remove():
        other = scene.orchestrator()
        for task in made:
            other.export_task(task, scene.root.parent / f"{task}.tar", remove=True)
        over.set()

    thread = threading.Thread(target=remove)
    thread.start()
    while not over.is_set():
        try:
            orch.agents(), orch.tasks()
        except Exception as error:  # noqa: BLE001 - any is a failure here
            errors.append(error)
    thread.join()

    assert [] == errors
    assert {} == orch.unreadable


# --- odd records ----------------------------------------------------------------------------------

ODD = {
    "type": 7,
    "status": ["?"],
    "parent": {},
    "started_at": 1730000000,
    "last_update": False,
    "completed_at": 1730000000.5,
    "message": None,
    "end_reason": 3,
    "termination_reason": [],
    "key": 5,
    "depth": "deep",
    "progress": None,
    "exit_code": "0",
    "exit_signal": True,
    "deadline_at": "soon",
}


def test_an_odd_record_is_an_agent_with_fields_of_their_types():
    agent = Agent.from_record("TASK-1", {"id": 4, **ODD})

    assert ("4", "7", "1730000000.5", "5") == (agent.id, agent.type, agent.completed_at, agent.key)
    assert (1, 0, None, None, None) == (
        *(agent.depth, agent.progress, agent.exit_code),
        *(agent.exit_signal, agent.deadline_at),
    )
    texts = (agent.status, agent.parent, agent.started_at, agent.last_update, agent.end_reason)
    assert all(isinstance(text, str) for text in (*texts, agent.message))


def test_an_odd_document_is_a_task_with_fields_of_their_types():
    task = Task.from_document({"task_id": "TASK-1", "status": None, "priority": 2, "agents": []})

    assert ("INITIALIZED", "2", "") == (task.status, task.priority, task.description)


def test_a_task_has_the_id_of_its_directory(scene, orch):
    task = orch.create_task("a task").id
    path = scene.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "task_id": None}))

    assert [task] == names(orch.tasks())


# --- every operation beside odd records -----------------------------------------------------------

ODD_VALUES = (None, 5, True, "x", [], ["y"], {}, {"z": 1})
ENDED = {
    "id": "old-120000-abcdef",
    "type": "old",
    "tmux_session": "agent_old-120000-abcdef",
    "parent": "orchestrator",
    "depth": 1,
    "status": "completed",
    "started_at": "2025-11-01T12:00:00",
    "progress": 100,
    "last_update": "2025-11-01T12:00:00",
    "prompt": "p",
    "tracked_files": {},
    "completed_at": "2025-11-01T12:00:00",
    "key": None,
    "deadline_at": None,
    "auto_cleanup_result": {"by": "x", "success": True},
    "auto_cleanup_timestamp": "2025-11-01T12:00:00",
    "message": "m",
    "termination_reason": "r",
}


def live(orch, scene, task):
    """Run a parent and its child from deployment to end."""
    parent = orch.deploy(task, scene.spec()).id
    child = orch.deploy(task, scene.spec(parent=parent)).id
    orch.report_progress(child, message="at it")
    end = orch.terminate(parent)
    assert (True, [child]) == (end.success, [each.agent_id for each in end.children])


def test_odd_records_disturb_no_operation_on_other_agents(scene):
    """Every field of a record with every odd value, in one registry."""
    orch = scene.orchestrator(limits=Limits(max_agents=1000))
    task = orch.create_task("a task").id
    path = scene.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_text())
    odd = [{**ENDED, name: value} for name in ENDED for value in ODD_VALUES]
    names_of_odd = [{**each, "id": f"old-120000-{n:06x}"} for n, each in enumerate(odd)]
    keep_id = len(ODD_VALUES)  # The first ones differ by their odd id.
    document["agents"] = [*odd[:keep_id], *names_of_odd[keep_id:]]
    path.write_text(json.dumps(document))

    assert len(odd) == len(orch.agents())
    assert [task] == names(orch.tasks())
    orch.sweep()
    orch.repair(dry_run=True)
    orch.stats()
    orch.gc(dry_run=True)
    live(orch, scene, task)
    assert not orch.repair(task).repairs[0].error


@pytest.mark.parametrize("value", [None, 5, "x", ["y"], {"z": 1}], ids=repr)
def test_odd_fields_of_a_task_disturb_no_operation(scene, orch, value):
    task = orch.create_task("a task").id
    path = scene.root / task / "AGENT_REGISTRY.json"
    document = json.loads(path.read_text())
    kept = ("agents", "schema_version")
    path.write_text(
        json.dumps({name: document[name] if name in kept else value for name in document})
    )

    assert [task] == names(orch.tasks())
    orch.sweep()
    orch.repair(dry_run=True)
    orch.stats()
    live(orch, scene, task)
