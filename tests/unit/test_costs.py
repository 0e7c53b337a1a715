"""The cost of an agent's life, counted in look-ups, reads and registry writes."""

from __future__ import annotations

import shutil

from support.effects import registry_writes_from_now

from orchestrator_core.saga import store


def counted(monkeypatch, owner, name):
    """Count the calls of a function; return a list that grows with each."""
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
    """The end is decided under the lock, from the one read of the journal."""
    orch = fake_scene.orchestrator()
    task = orch.create_task("a task").id
    read = counted(monkeypatch, store, "read_journal")
    agent = orch.deploy(task, fake_scene.spec())
    assert [] == read
    orch.terminate(agent.id)
    assert 1 == len(read)


def test_reaping_writes_registries_at_most_three_times_for_each_dead_agent(fake_scene, monkeypatch):
    """One write ends the agent's record, one takes its live entry out, one stores its cleanup."""
    orch = fake_scene.orchestrator()
    task = orch.create_task("a task").id
    agents = [orch.deploy(task, fake_scene.spec()).id for _ in range(20)]
    fake_scene.fake.reboot()
    writes = registry_writes_from_now(monkeypatch)

    report = orch.sweep(reap=True)

    assert set(agents) == {each.finding.agent_id for each in report.reaped if each.success}
    assert len([path for path in writes if "_REGISTRY.json" in path]) <= 3 * len(agents)
    assert orch.sweep().clean
