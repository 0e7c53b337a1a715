"""Tasks are created whole, however many are created at the same time."""

from __future__ import annotations

import os
import threading

import pytest
from support.fakes import a_fake_scene

from orchestrator_core import Orchestrator
from orchestrator_core.deployment import tasks
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.testing import FakeTerminal


@pytest.fixture
def orch(tmp_path):
    return Orchestrator(tmp_path / "ws", terminal=FakeTerminal())


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_creator_whose_directory_was_removed_begins_again(call, orch, monkeypatch):
    """Between creating its directory and locking it, a creator looks like one that has died."""
    original, swept = getattr(os, call), []

    def sweeping(path, *args, **how):
        result = original(path, *args, **how)
        if ".new-" in str(path) and not str(path).endswith(".tmp") and not swept:
            swept.append(path)
            tasks.clean_temp_dirs(orch.root)
        return result

    monkeypatch.setattr(os, call, sweeping)

    task = orch.create_task("See")

    assert swept
    assert [task] == orch.tasks()
    assert [] == list(orch.root.glob(".new-*"))


@pytest.mark.parametrize("key", [None, "one"])
def test_a_tasks_record_returns_its_extra_fields(orch, key):
    """A later reader finds them, and the fields of every task beside them."""
    made = orch.create_task("See", key=key, extra={"ticket": {"id": 7}})

    record = orch.task(made.id).record

    assert ({"id": 7}, "See") == (record["ticket"], record["task_description"])
    assert record["ticket"] == made.record["ticket"]


def test_an_extra_field_cannot_replace_a_field_of_every_task(orch):
    with pytest.raises(InvalidInput, match="agents"):
        orch.create_task("See", extra={"agents": []})
    assert [] == orch.tasks()


def test_tasks_created_at_the_same_time_are_all_created(orch):
    """No creator delays or spoils another."""
    failures = []

    def make():
        for _ in range(10):
            try:
                orch.create_task("See")
            except Exception as error:  # noqa: BLE001 - looked at below, in one thread
                failures.append(error)

    makers = [threading.Thread(target=make) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()

    assert [] == failures
    assert 80 == len(orch.tasks())


def test_a_key_names_one_task_for_all_concurrent_creators(orch):
    made = []
    makers = [
        threading.Thread(target=lambda: made.append(orch.create_task("See", key="one").id))
        for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()

    assert 8 == len(made)
    assert [made[0]] == list(set(made)) == [task.id for task in orch.tasks()]
    assert [] == list(orch.root.glob(".new-*"))


def test_a_key_names_one_task_wherever_its_creator_died():
    """The next call finishes the work of a creator that is killed before any effect."""
    number, died = 0, True
    while died:
        with a_fake_scene() as scene:
            orch = scene.orchestrator()

            def make(orch=orch):
                orch.create_task("See", key="one")

            died = scene.until_death(make, number)
            again = scene.orchestrator().create_task("See", key="one").id
            found = [task.id for task in scene.orchestrator().tasks()]
            assert [again] == found, f"died before effect {number}"
            assert scene.orchestrator().repair(dry_run=True).clean, number
        number += 1
    assert number > 8


def test_a_name_that_another_creator_uses_by_now_is_not_cleaned_up(orch, monkeypatch):
    """Between the open and the lock, the task was completed, and its name used again."""
    left = orch.root / ".new-TASK-1"
    left.mkdir()
    try_lock = tasks.locks.try_lock

    def replaced_first(fd, **how):
        if left.exists() and not (left / "work").exists():
            left.rename(orch.root / "TASK-1")
            left.mkdir()
            (left / "work").touch()
        return try_lock(fd, **how)

    monkeypatch.setattr(tasks.locks, "try_lock", replaced_first)

    tasks.clean_temp_dirs(orch.root)

    assert (left / "work").exists()
