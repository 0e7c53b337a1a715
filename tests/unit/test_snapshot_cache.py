"""The cache of registry snapshots: a task whose agents have all ended is read once."""

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
    """The registries of a root's tasks, and the reads of their files."""

    def __init__(self, root, monkeypatch):
        self._layout = Layout(root)
        self.registries = {}
        self.cache = SnapshotCache()
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
        found = self.cache.read_all(self.registries)
        read = {path.parent.name for path in self._read}
        return {task: list(snapshot.records) for task, snapshot in found.items()}, read


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    return Tasks(tmp_path, monkeypatch)


def test_a_task_whose_agents_have_all_ended_well_is_read_once(tasks):
    tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.make("TASK-present", {"id": "a-2", **ENDED}, {"id": "a-3", "status": "working"})
    both = {"TASK-past": ["a-1"], "TASK-present": ["a-2", "a-3"]}

    assert (both, {"TASK-past", "TASK-present"}) == tasks.seen()
    assert (both, {"TASK-present"}) == tasks.seen()


def test_a_task_with_a_failed_cleanup_is_read_each_time(tasks):
    """Something of the agent may be left, so its whole record is needed."""
    failed = {**ENDED, "auto_cleanup_result": {"by": "agent", "success": False}}
    tasks.make("TASK-failed", {"id": "a-1", **failed, "tmux_session": "agent_a-1"})

    for _ in range(2):
        assert ({"TASK-failed": ["a-1"]}, {"TASK-failed"}) == tasks.seen()
    [snapshot] = tasks.cache.read_all(tasks.registries).values()
    assert (False, "agent_a-1") == (snapshot.all_ended, snapshot.records["a-1"]["tmux_session"])


def test_a_replaced_registry_is_read_again(tasks):
    registry = tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()

    with registry.transaction() as document:
        document["agents"].append({"id": "a-2", "status": "working"})

    assert ({"TASK-past": ["a-1", "a-2"]}, {"TASK-past"}) == tasks.seen()
    assert ({"TASK-past": ["a-1", "a-2"]}, {"TASK-past"}) == tasks.seen()


def test_a_registry_that_was_edited_in_place_is_read_again(tasks):
    registry = tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()
    status = registry.path.stat()

    registry.path.write_bytes(registry.path.read_bytes().replace(b"a-1", b"a-7"))
    os.utime(registry.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    assert ({"TASK-past": ["a-7"]}, {"TASK-past"}) == tasks.seen()


def test_a_removed_task_leaves_the_cache(tasks):
    tasks.make("TASK-past", {"id": "a-1", **ENDED})
    tasks.seen()
    gone = tasks.registries.pop("TASK-past")
    assert ({}, set()) == tasks.seen()

    tasks.registries["TASK-past"] = gone

    assert ({"TASK-past": ["a-1"]}, {"TASK-past"}) == tasks.seen()


def test_a_record_without_a_valid_id_is_ignored(tasks):
    tasks.make("TASK-odd", {"id": "../x"}, {"status": "working"}, {"id": "a-1"})

    assert ({"TASK-odd": ["a-1"]}, {"TASK-odd"}) == tasks.seen()
