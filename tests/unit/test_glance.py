"""A glance at many registries: what is past, and as it was, is not read again."""

import os

import pytest

from orchestrator_core.model.layout import Layout
from orchestrator_core.registry import TASK, Registry
from orchestrator_core.registry.snapshot_cache import SnapshotCache
from orchestrator_core.system import durable

ENDED = {
    "status": "completed",
    "key": None,
    "deadline_at": None,
    "auto_cleanup_result": {"by": "agent", "success": True},
}


class Tasks:
    """The registries of a root's tasks, and what is read of them."""

    def __init__(self, root, monkeypatch):
        self._layout = Layout(root)
        self.registries = {}
        self.glances = SnapshotCache()
        self._read = []
        real = durable.read
        monkeypatch.setattr(durable, "read", lambda path: self._read.append(path) or real(path))

    def make(self, task_id, *agents):
        registry = Registry(self._layout.task_registry(task_id), schema=TASK)
        self.registries[task_id] = registry
        registry.create({"task_id": task_id, "agents": list(agents)})
        return registry

    def seen(self):
        """Return the agents seen in each task, and the tasks whose registries were read."""
        self._read.clear()
        found = self.glances.read_all(self.registries)
        read = {path.parent.name for path in self._read}
        return {task: list(glance.records) for task, glance in found.items()}, read


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    return Tasks(tmp_path, monkeypatch)


def test_a_task_whose_agents_have_all_ended_well_is_read_once(tasks):
    tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.make("TASK-present", {"id": "a-2", **ENDED}, {"id": "a-3", "status": "working"})
    both = {"TASK-past": ["a-1"], "TASK-present": ["a-2", "a-3"]}

    assert (both, {"TASK-past", "TASK-present"}) == tasks.seen()
    assert (both, {"TASK-present"}) == tasks.seen()


def test_a_task_with_an_end_that_failed_is_not_past(tasks):
    """Something of it may be left: all that is known of it is read each time."""
    failed = {**ENDED, "auto_cleanup_result": {"by": "agent", "success": False}}
    tasks.make("TASK-failed", {"id": "a-1", **failed, "tmux_session": "agent_a-1"})

    for _ in range(2):
        assert ({"TASK-failed": ["a-1"]}, {"TASK-failed"}) == tasks.seen()
    [glance] = tasks.glances.read_all(tasks.registries).values()
    assert (False, "agent_a-1") == (glance.all_ended, glance.records["a-1"]["tmux_session"])


def test_one_that_was_replaced_is_read_again(tasks):
    registry = tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()

    with registry.transaction() as document:
        document["agents"].append({"id": "a-2", "status": "working"})

    assert ({"TASK-past": ["a-1", "a-2"]}, {"TASK-past"}) == tasks.seen()
    assert ({"TASK-past": ["a-1", "a-2"]}, {"TASK-past"}) == tasks.seen()


def test_one_that_was_edited_in_its_place_is_read_again(tasks):
    registry = tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()
    status = registry.path.stat()

    registry.path.write_bytes(registry.path.read_bytes().replace(b"a-1", b"a-7"))
    os.utime(registry.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    assert ({"TASK-past": ["a-7"]}, {"TASK-past"}) == tasks.seen()


def test_one_that_is_gone_is_forgotten(tasks):
    tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()
    gone = tasks.registries.pop("TASK-past")
    assert ({}, set()) == tasks.seen()

    tasks.registries["TASK-past"] = gone

    assert ({"TASK-past": ["a-1"]}, {"TASK-past"}) == tasks.seen()


def test_what_has_no_id_is_no_agent(tasks):
    tasks.make("TASK-odd", {"id": "../x"}, {"status": "working"}, {"id": "a-1"})

    assert ({"TASK-odd": ["a-1"]}, {"TASK-odd"}) == tasks.seen()
