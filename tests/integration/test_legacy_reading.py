"""What the old system wrote is read, shown and counted, and stays as it is."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading

import pytest
from support.old_system import an_old_scene

from orchestrator_core import AgentSpec, InvalidInput, LimitReached, Orchestrator
from orchestrator_core.cli import main
from orchestrator_core.model.limits import Limits
from orchestrator_core.testing import FakeTerminal

pytestmark = pytest.mark.tmux

WEIRD = ("reviewing", "blocked", "Half Done", "", None, 7, ["running"])
OVER = ("completed", "terminated", "error", "failed", "killed", "phase_completed", "COMPLETED")


@pytest.fixture
def scene(monkeypatch):
    """A root of the old system, on a machine whose default tmux server does not run."""
    with an_old_scene() as made:
        monkeypatch.setenv("TMUX_TMPDIR", str(made.old.tmux_tmpdir))
        yield made


@pytest.fixture
def crowded(scene):
    """A workspace after a year: every status there ever was, and counters that drifted."""
    task = scene.old.task()
    agents = [scene.old.agent(task, tracked=number % 2) for number in range(len(WEIRD + OVER))]
    for agent, status in zip(agents, WEIRD + OVER, strict=True):
        scene.old.say_ended(task, agent, status)
    scene.old.edit(task, lambda document: document["agents"].append({"id": "bare-101010-aaaaaa"}))
    scene.old.edit(task, lambda document: document["agents"].append({"progress": "50 %"}))
    scene.old.task("Another")
    return scene, task, agents


LOOKS = {
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


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_to_look_changes_not_a_byte_of_it(crowded, look):
    scene, _, agents = crowded
    before = scene.old.bytes()
    look(Orchestrator(scene.root), agents[0])
    assert before == scene.old.bytes()


COMMANDS = ("ps", "ps --all", "show {agent}", "recover", "sweep --dry-run", "doctor", "stats")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_that_looks_changes_a_byte_of_it(crowded, command, capsys):
    scene, _, agents = crowded
    before = scene.old.bytes()
    main(["--root", str(scene.root), *command.format(agent=agents[0]).split()])
    assert before == scene.old.bytes()
    assert "Traceback" not in capsys.readouterr().err


def test_everything_is_shown_and_whatever_is_no_end_is_active(crowded):
    scene, task, agents = crowded
    orch = scene.orchestrator()
    active = [agent.id for agent in orch.agents(status="active")]
    assert [*agents[: len(WEIRD)], "bare-101010-aaaaaa", "?"] == active
    everyone = orch.agents(task_id=task)
    assert len(WEIRD + OVER) + 2 == len(everyone)
    assert {agent.to_dict()["progress"] for agent in everyone} == {0}
    assert {"Find the slow query", "Another"} == {each.description for each in orch.tasks()}


def test_why_one_ended_is_shown_in_the_old_systems_words(scene, capsys):
    task = scene.old.task()
    agent = scene.old.agent(task)
    scene.old.say_ended(task, agent, "killed", termination_reason="too slow")
    main(["--root", str(scene.root), "show", agent])
    shown = capsys.readouterr().out
    assert "too slow" in shown
    assert "none: deployed without us" in shown


def test_a_directory_that_only_looks_like_a_task_is_none(scene):
    task = scene.old.task()
    (scene.root / f"{task}.bak").mkdir()
    (scene.root / f"{task}.bak" / "AGENT_REGISTRY.json").write_text("{}")
    assert [task] == [each.id for each in scene.orchestrator().tasks()]


# --- living beside it ---------------------------------------------------------------------------


def test_a_task_of_ours_beside_theirs_changes_nothing_of_theirs(crowded):
    """The global registry is one, so ours is entered there; what they wrote in it stays."""
    scene, _, _ = crowded
    before, globally = scene.old.bytes(), scene.old.globally()
    ours = scene.orchestrator().create_task("ours").id
    after = scene.old.globally()
    assert globally["agents"] == after["agents"]
    assert globally["tasks"] == {
        name: each for name, each in after["tasks"].items() if name != ours
    }
    assert [*globally["tasks"], ours] == list(after["tasks"])
    assert 20 == after["max_concurrent_agents"]
    changed = {name for name, data in scene.old.bytes().items() if before.get(name) != data}
    assert {"registry/GLOBAL_REGISTRY.json", f"{ours}/AGENT_REGISTRY.json"} == changed
    kept = scene.root / "registry" / "GLOBAL_REGISTRY.json.v0"
    assert before["registry/GLOBAL_REGISTRY.json"] == kept.read_bytes()


def test_agents_of_ours_live_and_end_beside_theirs(scene):
    theirs = scene.old.task()
    living, dead = scene.old.agent(theirs), scene.old.agent(theirs)
    scene.old.edit_globally(lambda every: every["agents"][dead].update(status="completed"))
    untouched = scene.old.registry_file(theirs).read_bytes()
    orch = Orchestrator(scene.root, terminal=FakeTerminal())
    ours = orch.deploy(
        orch.create_task("ours").id, AgentSpec(type="a", prompt="p", command=["/bin/true"])
    ).id
    assert [living, dead, ours] == list(scene.old.globally()["agents"])
    assert {"status": "completed"}.items() <= scene.old.globally()["agents"][dead].items()
    assert (2, 3) == tuple(
        scene.old.globally()[name] for name in ("active_agents", "total_agents_spawned")
    )
    orch.terminate(ours)
    after = scene.old.globally()
    assert [living] == list(after["agents"])
    assert {"terminated": 1, "completed": 1} == after["ended"]
    assert (1, 3) == (after["active_agents"], after["total_agents_spawned"])
    assert theirs in after["tasks"]
    assert untouched == scene.old.registry_file(theirs).read_bytes()


def test_who_only_the_global_registry_takes_for_living_takes_nobodys_place(scene):
    task, gone = scene.old.task(), scene.old.task()
    for number in range(30):
        agent = scene.old.agent(gone if number % 3 else task)
        if not number % 3:
            scene.old.say_ended(task, agent)
    shutil.rmtree(scene.root / gone)
    living = [scene.old.agent(task) for _ in range(2)]
    limits = Limits(max_concurrent=len(living) + 1)
    orch = Orchestrator(scene.root, terminal=FakeTerminal(), limits=limits)
    spec = AgentSpec(type="a", prompt="p", command=["/bin/true"])
    ours = orch.deploy(orch.create_task("ours").id, spec)
    assert ours.is_active
    with pytest.raises(LimitReached, match="3 agents are alive"):
        orch.deploy(ours.task_id, spec)


def test_whoever_lost_their_global_registry_gets_one_that_knows_their_tasks(scene):
    task = scene.old.task()
    living, dead = scene.old.agent(task), scene.old.agent(task)
    scene.old.say_ended(task, dead, "killed")
    scene.old.global_file.unlink()
    scene.orchestrator()
    document = scene.old.globally()
    assert ([task], [living], {"killed": 1}) == (
        list(document["tasks"]),
        list(document["agents"]),
        document["ended"],
    )


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.4, 0.7, 0.99])
def test_a_registry_that_was_cut_off_loses_no_agent_that_can_still_be_known(scene, share):
    """It is kept aside as it is; what is still to be read, and what the files say, is shown."""
    task = scene.old.task("Cut off")
    agents = [scene.old.agent(task) for _ in range(4)]
    path = scene.old.registry_file(task)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    orch = scene.orchestrator()
    assert agents == [agent.id for agent in orch.agents(task_id=task)]
    assert ["Cut off"] == [each.description for each in orch.tasks()]
    [kept] = path.parent.glob("AGENT_REGISTRY.json.damaged-*")
    assert whole[: int(len(whole) * share)] == kept.read_bytes()
    assert orch.terminate(agents[0]).success


def test_a_registry_that_an_old_server_is_writing_is_waited_for(scene):
    """It holds the lock of the file itself, which is empty meanwhile; nothing is set aside."""
    task = scene.old.task()
    agent = scene.old.agent(task)
    path = scene.old.registry_file(task)
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


# --- what the old system's users have set -------------------------------------------------------


def test_the_old_variable_for_the_workspace_leads_to_it(scene, monkeypatch):
    task = scene.old.task()
    monkeypatch.delenv("ORCHESTRATOR_ROOT", raising=False)
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_WORKSPACE", str(scene.root))
    orch = Orchestrator(recover=False)
    assert [task] == [each.id for each in orch.tasks()]
    assert "CLAUDE_ORCHESTRATOR_WORKSPACE" == orch.chosen_by


def test_the_old_variables_for_limits_hold_unless_limits_are_given(scene, monkeypatch):
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
def test_a_limit_that_is_no_number_is_named(scene, monkeypatch, value):
    monkeypatch.setenv("CLAUDE_ORCHESTRATOR_MAX_DEPTH", value)
    with pytest.raises(InvalidInput, match="CLAUDE_ORCHESTRATOR_MAX_DEPTH"):
        Orchestrator(scene.root)
