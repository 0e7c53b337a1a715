"""Tasks are made whole, however many are made at once."""

from __future__ import annotations

import os
import threading

import pytest

from orchestrator_core import Orchestrator, tasks
from orchestrator_core.testing import FakeTerminal


@pytest.fixture
def orch(tmp_path):
    return Orchestrator(tmp_path / "ws", terminal=FakeTerminal())


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_maker_that_another_takes_for_dead_begins_again(call, orch, monkeypatch):
    """Between making its directory and locking it, a maker looks like one that has died."""
    original, swept = getattr(os, call), []

    def sweeping(path, *args, **how):
        result = original(path, *args, **how)
        if ".new-" in str(path) and not str(path).endswith(".tmp") and not swept:
            swept.append(path)
            tasks.sweep_unfinished(orch.root)
        return result

    monkeypatch.setattr(os, call, sweeping)

    task = orch.create_task("See")

    assert swept
    assert [task] == orch.tasks()
    assert [] == list(orch.root.glob(".new-*"))


def test_tasks_that_are_made_at_once_are_all_made(orch):
    """None is in another's way."""
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
