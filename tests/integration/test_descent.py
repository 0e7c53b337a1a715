"""The default parent of an agent, and its depth whatever parent is named."""

import pytest
from support.fakes import a_fake_scene

from orchestrator_core import Limits
from orchestrator_core.exceptions import InvalidInput, LimitReached, NotFound
from orchestrator_core.model.environment import ENV_AGENT, ENV_ROOT, ENV_TASK


@pytest.fixture
def scene():
    with a_fake_scene() as made:
        yield made


@pytest.fixture
def orch(scene):
    return scene.orchestrator(limits=Limits(max_depth=3))


@pytest.fixture
def task(orch):
    return orch.create_task("tried").id


@pytest.fixture
def inside(scene, monkeypatch):
    """Return a function that sets the environment of a process inside an agent."""

    def be_inside(agent, root=None):
        monkeypatch.setenv(ENV_ROOT, str(root or scene.root))
        monkeypatch.setenv(ENV_AGENT, agent.id)
        monkeypatch.setenv(ENV_TASK, agent.task_id)
        return agent

    return be_inside


def test_a_deployment_from_inside_an_agent_deploys_its_child(scene, orch, task, inside):
    """No parent is named; the registries and the hierarchy have it."""
    parent = inside(orch.deploy(task, scene.spec()))

    child = orch.deploy(task, scene.spec())

    assert (parent.id, 2) == (child.parent, child.depth)
    assert parent.id == scene.world.entries()[child.id]["parent"]
    assert (parent.id,) == tuple(
        record["parent"] for agent, record in scene.world.records().items() if agent == child.id
    )


def test_the_orchestrator_is_the_parent_of_a_deployment_outside_agents(
    scene, orch, task, inside, tmp_path
):
    """An agent of another root, which this one does not know, is no parent here either."""
    assert ("orchestrator", 1) == _descent(orch.deploy(task, scene.spec()))
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for elsewhere in (tmp_path, circle):
        inside(orch.deploy(task, scene.spec()), root=elsewhere)
        assert ("orchestrator", 1) == _descent(orch.deploy(task, scene.spec()))


def test_the_depth_counts_generations_without_a_named_parent(scene, orch, task, inside):
    """A fourth generation of three is refused, and nothing is left of it."""
    for _ in range(3):
        inside(orch.deploy(task, scene.spec()))

    with pytest.raises(LimitReached):
        orch.deploy(task, scene.spec())

    assert 3 == len(scene.world.sessions())
    assert [] == scene.world.torn()


def test_the_name_of_another_parent_saves_no_generation(scene, orch, task, inside):
    """With the orchestrator or a sister as parent, it is one deeper than the deploying agent."""
    shallow = orch.deploy(task, scene.spec())
    inside(orch.deploy(task, scene.spec()))
    inside(orch.deploy(task, scene.spec()))

    free = orch.deploy(task, scene.spec(parent="orchestrator"))
    given = orch.deploy(task, scene.spec(parent=shallow.id))

    assert ("orchestrator", 3) == _descent(free)
    assert (shallow.id, 3) == _descent(given)
    inside(free)
    with pytest.raises(LimitReached):
        orch.deploy(task, scene.spec(parent="orchestrator"))


def test_the_depth_counts_on_in_another_task(scene, orch, task, inside):
    """An agent of another task belongs to that task alone, and its depth counts all the same."""
    another = orch.create_task("another").id
    inside(orch.deploy(task, scene.spec()))
    second = inside(orch.deploy(another, scene.spec()))
    assert ("orchestrator", 2) == _descent(second)
    inside(orch.deploy(task, scene.spec()))

    with pytest.raises(LimitReached):
        orch.deploy(another, scene.spec())


def test_an_agent_with_an_ended_record_gets_no_children_from_inside(scene, orch, task, inside):
    """Whatever of it still runs is being ended."""
    orch.terminate(inside(orch.deploy(task, scene.spec())).id)

    with pytest.raises(InvalidInput):
        orch.deploy(task, scene.spec())

    assert [] == scene.world.leftovers()


def test_an_environment_that_names_an_unknown_agent_is_refused(scene, orch, task, monkeypatch):
    """The refusal comes before any effect, and has a remedy."""
    for name, value in ((ENV_ROOT, scene.root), (ENV_TASK, task), (ENV_AGENT, "a-000000-abcdef")):
        monkeypatch.setenv(name, str(value))

    with pytest.raises(NotFound) as refused:
        orch.deploy(task, scene.spec())

    assert f"unset {ENV_AGENT}" in refused.value.hint
    assert [] == scene.world.leftovers()


def _descent(agent):
    return agent.parent, agent.depth
