"""
Damaged registries, journals and root files, on real tmux.

Each is quarantined and reported, and rebuilt as far as possible. No live agent is ended for
it, and every agent can still be ended in full.
"""

import sys
from pathlib import Path

import pytest

import orchestrator_core
from orchestrator_core import Orchestrator
from orchestrator_core.exceptions import RegistryDamaged, WaitTimeout

pytestmark = pytest.mark.tmux


@pytest.fixture
def orch(scene):
    return scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


_PACKAGE = str(Path(orchestrator_core.__file__).parents[1])

DAMAGE = {
    "empty": lambda _: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "not JSON": lambda data: b"{" + data,
    "another JSON": lambda _: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", ["registry/GLOBAL_REGISTRY.json", "TASK-*/AGENT_REGISTRY.json"])
def test_a_damaged_registry_is_quarantined_and_rebuilt_and_ends_no_agent(
    which, damage, scene, orch, task
):
    """The file is quarantined once and rebuilt from the journals. The agents live on."""
    agent = orch.deploy(task, scene.spec())
    [path] = scene.root.glob(which)
    broken = DAMAGE[damage](path.read_bytes())
    path.write_bytes(broken)

    with scene.orchestrator(recover=True) as other:
        other.report_progress(agent.id, "working")
        assert other.deploy(task, scene.spec()).is_active

    [quarantined] = path.parent.glob(f"{path.name}.damaged-*")
    assert broken == quarantined.read_bytes()
    assert 2 == len(scene.world.sessions())
    assert [] == scene.world.torn()
    assert all(orch.terminate(one.id).success for one in orch.agents(status="active"))
    assert [] == [left for left in scene.world.leftovers() if "damaged" not in left]


@pytest.mark.parametrize("place", ["begin", "spawn_tmux", "commit", "last"])
def test_a_damaged_journal_is_quarantined_and_rebuilt_and_ends_no_agent(place, scene, orch, task):
    """A line fails its checksum: the agent lives on, and is ended in full when its time comes."""
    agent = orch.deploy(task, scene.spec())
    path = scene.root / f"sagas/{agent.id}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    marks = {
        "begin": b'"begin"',
        "spawn_tmux": b'"intent","step":"spawn_tmux"',
        "commit": b'"commit"',
    }
    if place != "last":
        lines += [lines[-1].replace(b"commit", b"unknown")]  # Damage stands before the end.
    number = next((n for n, line in enumerate(lines) if marks.get(place, b"?") in line), -1)
    lines[number] = lines[number].replace(b"e", b"E")
    path.write_bytes(b"".join(lines))

    scene.orchestrator(recover=True)

    assert [agent.tmux_session] == scene.world.sessions()
    assert scene.world.of_agent(agent.id)
    end = orch.terminate(agent.id)
    assert end.success
    # Its supervisor has seen in the rebuilt journal that it is not to unwind as well.
    assert [False] == [one["detail"]["forced"] for one in end.steps if one["step"] == "spawn_tmux"]
    assert {} == scene.world.processes()
    assert [] == scene.world.sessions() + scene.world.cgroups()
    assert [] == scene.world.files("TASK-*/run/*") + scene.world.files("TASK-*/agent_prompt_*")


def flip_the_line_with_the_supervisor(path):
    data = path.read_bytes()
    at = data.index(b'"done","step":"spawn_tmux"') + 60
    path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def cut(mark):
    return lambda path: path.write_bytes(path.read_bytes().partition(mark)[0])


def replace_by_a_directory(path):
    path.unlink()
    path.mkdir()


WRECKS = {
    "one bit": flip_the_line_with_the_supervisor,
    "cut before the commit": cut(b'{"kind":"commit"'),
    "cut before the first step": cut(b'{"kind":"done"'),
    "cut in the first line": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "NULs": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "a directory": replace_by_a_directory,
}


def wait(other, agent_id):
    with pytest.raises(WaitTimeout):
        other.wait(agent_id, timeout_s=0.2)


LOOKS = {
    "recover": lambda other, _: other.recover(),
    "sweep": lambda other, _: other.sweep(reap=True),
    "wait": wait,
    "progress": lambda other, agent_id: other.report_progress(agent_id, "working"),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("wreck", WRECKS)
def test_no_look_at_a_wrecked_journal_ends_its_living_agent(wreck, look, scene, orch, task):
    """The run directory, the supervisor's command line and the registry know the agent, too."""
    agent = orch.deploy(task, scene.spec())
    WRECKS[wreck](scene.root / f"sagas/{agent.id}.jsonl")

    LOOKS[look](scene.orchestrator(), agent.id)

    assert orch.agent(agent.id).is_active
    assert [agent.tmux_session] == scene.world.sessions()
    assert scene.world.of_agent(agent.id)
    end = orch.terminate(agent.id, reason="enough")
    assert (True, "terminated", "enough") == (end.success, end.status, end.reason)
    # The supervisor was found again, and has ended its processes itself.
    assert [False] == [one["detail"]["forced"] for one in end.steps if one["step"] == "spawn_tmux"]
    assert [] == [left for left in scene.world.leftovers() if "damaged" not in left]
    assert "terminated" == orch.agent(agent.id).status


@pytest.mark.parametrize("wreck", WRECKS)
def test_an_agent_with_a_wrecked_journal_ends_as_its_supervisor_saw_it(wreck, scene, orch, task):
    """Its log and its record stay, whatever the journal has lost."""
    spec = scene.spec("sh", "-c", f"echo work; read go < {scene.gate('go')}")
    agent = orch.deploy(task, spec)
    WRECKS[wreck](scene.root / f"sagas/{agent.id}.jsonl")
    scene.let_go("go")

    end = orch.wait(agent.id, timeout_s=20)

    assert (True, "completed") == (end.success, end.status), end
    assert "work\n" == orch.read_output(agent.id)
    assert "completed" == orch.agent(agent.id).status


def test_an_agent_can_report_its_end_from_inside_after_its_journal_was_rebuilt(scene, orch, task):
    """The supervisor has the old journal open, and finds the request in the new one."""
    report = f"{sys.executable} -m orchestrator_core progress --status completed"
    script = f"read go < {scene.gate('go')}; {report}; echo answered; sleep 1000"
    agent = orch.deploy(task, scene.spec("sh", "-c", script, env={"PYTHONPATH": _PACKAGE}))
    path = scene.root / f"sagas/{agent.id}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"write_prompt"', b'"WRITE_PROMPT"', 1))
    scene.orchestrator(recover=True)

    scene.let_go("go")
    end = orch.wait(agent.id, timeout_s=20)

    assert ("completed", "report", True) == (end.status, end.by, end.success)
    assert {} == scene.world.until_alone()


@pytest.mark.usefixtures("task")
def test_a_damaged_root_file_is_reported_and_not_reset(scene):
    """The file's id and socket lead to live agents, which a new file would lose."""
    path = scene.root / "root.json"
    content = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(RegistryDamaged, match=r"root\.json"):
        Orchestrator(scene.root)
    assert b"{" == path.read_bytes()
    path.write_bytes(content)
