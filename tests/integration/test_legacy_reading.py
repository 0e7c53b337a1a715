"""The files of the legacy system are read, shown and counted, and stay as they are."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading

import pytest
from support.legacy_system import a_legacy_scene

from orchestrator_core import AgentSpec, InvalidInput, LimitReached, Orchestrator
from orchestrator_core.cli import main
from orchestrator_core.model.limits import Limits
from orchestrator_core.testing import FakeTerminal

pytestmark = pytest.mark.tmux

WEIRD = ("reviewing", "blocked", "Half Done", "", None, 7, ["running"])
OVER = ("completed", "terminated", "error", "failed", "killed", "phase_completed", "COMPLETED")


@pytest.fixture
def scene(monkeypatch):
    """A root of the legacy system; the default tmux server does not run."""
    with a_legacy_scene() as made:
        monkeypatch.setenv("TMUX_TMPDIR", str(made.legacy.tmux_tmpdir))
        yield made


@pytest.fixture
def many_agents(scene):
    """A workspace with every status that the legacy system wrote, and drifted counters."""
    task = scene.legacy.task()
    agents = [scene.legacy.agent(task, tracked=number % 2) for number in range(len(WEIRD + OVER))]
    for agent, status in zip(agents, WEIRD + OVER, strict=True):
        scene.legacy.record_end(task, agent, status)
    scene.legacy.edit(
        task, lambda document: document["agents"].append({"id": "bare-101010-aaaaaa"})
    )
    scene.legacy.edit(task, lambda document: document["agents"].append({"progress": "50 %"}))
    scene.legacy.task("Another")
    return scene, task, agents


READS = {
    "opening": lambda orch, _: orch.recover(force=True),
    "tasks": lambda orch, _: orch.tasks(),
    "agents": lambda orch, _: (orch.agents(), orch.agents(status="active")),
    "agent": lambda orch, agent: orch.agent(agent),
    "output": lambda orch, agent: orch.read_output(agent),
    "sweep": lambda orch, _: orch.sweep(),
    "stats": lambda orch, _: orch.stats(),
    "gc": lambda orch, _: orch.gc(dry_run=True),
    "repair": lambda orch, _: orch.repair(dry_run=True),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_changes_no_byte(many_agents, read):
    scene, _, agents = many_agents
    before = scene.legacy.bytes()
    read(Orchestrator(scene.root), agents[0])
    assert before == scene.legacy.bytes()


COMMANDS = ("ps", "ps --all", "show {agent}", "recover", "sweep --dry-run", "doctor", "stats")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reading_command_changes_no_byte(many_agents, command, capsys):
    scene, _, agents = many_agents
    before = scene.legacy.bytes()
    main(["--root", str(scene.root), *command.format(agent=agents[0]).split()])
    assert before == scene.legacy.bytes()
    assert "Traceback" not in capsys.readouterr().err


def test_all_agents_are_listed_and_an_unknown_status_counts_as_active(many_agents):
    scene, task, agents = many_agents
    orch = scene.orchestrator()
    active = [agent.id for agent in orch.agents(status="active")]
    assert sorted([*agents[: len(WEIRD)], "bare-101010-aaaaaa", "?"]) == sorted(active)
    listed = orch.agents(task_id=task)
    assert len(WEIRD + OVER) + 2 == len(listed)
    assert {agent.to_dict()["progress"] for agent in listed} == {0}
    assert {"Find the slow query", "Another"} == {each.description for each in orch.tasks()}


def test_the_recorded_reason_of_an_end_is_shown(scene, capsys):
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    scene.legacy.record_end(task, agent, "killed", termination_reason="too slow")
    main(["--root", str(scene.root), "show", agent])
    shown = capsys.readouterr().out
    assert "too slow" in shown
    assert "none: a legacy agent" in shown


def test_a_directory_with_a_name_like_a_tasks_is_no_task(scene):
    task = scene.legacy.task()
    (scene.root / f"{task}.bak").mkdir()
    (scene.root / f"{task}.bak" / "AGENT_REGISTRY.json").write_text("{}")
    assert [task] == [each.id for each in scene.orchestrator().tasks()]


# --- coexistence -------------------------------------------------------------------------------


def test_a_new_task_changes_no_legacy_task(many_agents):
    """Both are in the same global registry, which keeps what the legacy system wrote."""
    scene, _, _ = many_agents
    before, globally = scene.legacy.bytes(), scene.legacy.globally()
    added = scene.orchestrator().create_task("ours").id
    after = scene.legacy.globally()
    assert globally["agents"] == after["agents"]
    assert globally["tasks"] == {
        name: each for name, each in after["tasks"].items() if name != added
    }
    assert [*globally["tasks"], added] == list(after["tasks"])
    assert 20 == after["max_concurrent_agents"]
    changed = {name for name, data in scene.legacy.bytes().items() if before.get(name) != data}
    assert {"registry/GLOBAL_REGISTRY.json", f"{added}/AGENT_REGISTRY.json"} == changed
    previous = scene.root / "registry" / "GLOBAL_REGISTRY.json.v0"
    assert before["registry/GLOBAL_REGISTRY.json"] == previous.read_bytes()


def test_new_agents_run_and_end_beside_legacy_agents(scene):
    task = scene.legacy.task()
    living, dead = scene.legacy.agent(task), scene.legacy.agent(task)
    scene.legacy.edit_globally(lambda every: every["agents"][dead].update(status="completed"))
    untouched = scene.legacy.registry_file(task).read_bytes()
    orch = Orchestrator(scene.root, terminal=FakeTerminal())
    added = orch.deploy(
        orch.create_task("ours").id, AgentSpec(type="a", prompt="p", command=["/bin/true"])
    ).id
    assert [living, dead, added] == list(scene.legacy.globally()["agents"])
    assert {"status": "completed"}.items() <= scene.legacy.globally()["agents"][dead].items()
    assert (2, 3) == tuple(
        scene.legacy.globally()[name] for name in ("active_agents", "total_agents_spawned")
    )
    orch.terminate(added)
    after = scene.legacy.globally()
    assert [living] == list(after["agents"])
    assert {"terminated": 1, "completed": 1} == after["ended"]
    assert (1, 3) == (after["active_agents"], after["total_agents_spawned"])
    assert task in after["tasks"]
    assert untouched == scene.legacy.registry_file(task).read_bytes()


def test_entries_of_ended_legacy_agents_do_not_count_against_the_limit(scene):
    task, gone = scene.legacy.task(), scene.legacy.task()
    for number in range(30):
        agent = scene.legacy.agent(gone if number % 3 else task)
        if not number % 3:
            scene.legacy.record_end(task, agent)
    shutil.rmtree(scene.root / gone)
    living = [scene.legacy.agent(task) for _ in range(2)]
    limits = Limits(max_concurrent=len(living) + 1)
    orch = Orchestrator(scene.root, terminal=FakeTerminal(), limits=limits)
    spec = AgentSpec(type="a", prompt="p", command=["/bin/true"])
    added = orch.deploy(orch.create_task("ours").id, spec)
    assert added.is_active
    with pytest.raises(LimitReached, match="limit reached: 3 of 3 agents are running"):
        orch.deploy(added.task_id, spec)


def test_a_lost_global_registry_is_rebuilt_with_the_legacy_tasks(scene):
    task = scene.legacy.task()
    living, dead = scene.legacy.agent(task), scene.legacy.agent(task)
    scene.legacy.record_end(task, dead, "killed")
    scene.legacy.global_file.unlink()
    scene.orchestrator()
    document = scene.legacy.globally()
    assert ([task], [living], {"killed": 1}) == (
        list(document["tasks"]),
        list(document["agents"]),
        document["ended"],
    )


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.4, 0.7, 0.99])
def test_a_truncated_registry_loses_no_agent_that_another_source_has(scene, share):
    """The registry is quarantined. The agents come from its readable part and from their files."""
    task = scene.legacy.task("Cut off")
    agents = [scene.legacy.agent(task) for _ in range(4)]
    path = scene.legacy.registry_file(task)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    orch = scene.orchestrator()
    assert agents == [agent.id for agent in orch.agents(task_id=task)]
    assert ["Cut off"] == [each.description for each in orch.tasks()]
    [quarantined] = path.parent.glob("AGENT_REGISTRY.json.damaged-*")
    assert whole[: int(len(whole) * share)] == quarantined.read_bytes()
    assert orch.terminate(agents[0]).success


def test_a_reader_waits_for_a_legacy_writer(scene):
    """The writer locks the file itself, which is empty meanwhile; nothing is quarantined."""
    task = scene.legacy.task()
    agent = scene.legacy.agent(task)
    path = scene.legacy.registry_file(task)
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        whole = file.read()
        file.seek(0)
        file.truncate()
        read = []
        reader = threading.Thread(target=lambda: read.extend(scene.orchestrator().agents()))
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        file.write(whole)
    reader.join()
    assert [agent] == [each.id for each in read]
    assert [] == scene.world.files(f"{task}/*damaged*")


# --- environment variables ---------------------------------------------------------------------


def test_the_legacy_variable_for_the_workspace_selects_the_root(scene, monkeypatch):
    task = scene.legacy.task()
    monkeypatch.delenv("ORCHESTRATOR_ROOT", raising=False)
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_WORKSPACE", str(scene.root))
    orch = Orchestrator(recover=False)
    assert [task] == [each.id for each in orch.tasks()]
    assert "CLAUDE_ORCHESTRATOR_WORKSPACE" == orch.chosen_by


def test_the_legacy_variables_for_limits_count_unless_limits_are_passed(scene, monkeypatch):
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_AGENTS", "7")
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_CONCURRENT", "")
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_DEPTH", "2")
    made = Orchestrator(scene.root, recover=False).create_task("limited").id
    document = json.loads((scene.root / made / "AGENT_REGISTRY.json").read_text())
    names = ("max_agents", "max_concurrent", "max_depth")
    assert (7, 20, 2) == tuple(document[name] for name in names)
    given = Orchestrator(scene.root, recover=False, limits=Limits(max_agents=3))
    document = json.loads(
        (scene.root / given.create_task("g").id / "AGENT_REGISTRY.json").read_text()
    )
    assert (3, 20, 5) == tuple(document[name] for name in names)


@pytest.mark.parametrize("value", ["many", "0", "-3", "4.5", "9" * 5000])
def test_an_invalid_limit_is_named_in_the_error(scene, monkeypatch, value):
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_DEPTH", value)
    with pytest.raises(InvalidInput, match="CLAUDE_ORCHESTRATOR_MAX_DEPTH"):
        Orchestrator(scene.root)
