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
from orchestrator_core.exceptions import RegistryDamaged

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
