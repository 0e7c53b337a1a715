"""What a life costs, counted: none of it is looked at, or read, more often than it has to be."""

from __future__ import annotations

import shutil

from orchestrator_core.saga import store as directory


def counted(monkeypatch, owner, name):
    """Let calls of a function be counted; return the list that grows with each."""
    calls, real = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(a), real(*a, **k))[1])
    return calls


def test_the_program_is_looked_up_once(fake_scene, monkeypatch):
    orch = fake_scene.orchestrator()
    task = orch.create_task("a task").id
    looked_up = counted(monkeypatch, shutil, "which")
    orch.deploy(task, fake_scene.spec())
    assert 1 == len(looked_up)


def test_the_journal_is_read_once_for_an_end_and_never_for_a_deployment(fake_scene, monkeypatch):
    """The end is decided under the lock, from what taking it has read."""
    orch = fake_scene.orchestrator()
    task = orch.create_task("a task").id
    read = counted(monkeypatch, directory, "parse")
    agent = orch.deploy(task, fake_scene.spec())
    assert [] == read
    orch.terminate(agent.id)
    assert 1 == len(read)
