"""Large texts: shortened with a mark, or refused, and never in the way of other reports."""

import pytest

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model import bounds

HUGE = "x" * 5_000_000


@pytest.fixture
def orch(fake_scene):
    return fake_scene.orchestrator()


@pytest.fixture
def agent(fake_scene, orch):
    return orch.deploy(orch.create_task("found").id, fake_scene.spec())


def test_a_text_of_the_longest_length_is_kept_and_a_longer_one_names_its_length():
    assert "x" * 10_000 == bounds.shortened("x" * 10_000)
    short = bounds.shortened("x" * 10_001)
    assert 10_000 == len(short)
    assert short.endswith("[shortened: it had 10001 characters]")


@pytest.mark.parametrize("end", ["working", "completed"])
def test_a_long_message_is_shortened_wherever_it_is_kept(orch, agent, end):
    orch.report_progress(agent.id, end, message=HUGE)

    sizes = {path.name: path.stat().st_size for path in orch.root.rglob("*") if path.is_file()}
    assert not {name: size for name, size in sizes.items() if size > 100_000}
    assert orch.agent(agent.id).message.endswith("5000000 characters]") or end == "completed"
    assert orch.read_progress(agent.id)[0].message.endswith("5000000 characters]")


def test_a_long_reason_is_shortened(orch, agent):
    end = orch.terminate(agent.id, reason=HUGE)

    assert end.success
    assert end.reason.endswith("5000000 characters]")
    assert orch.agent(agent.id).end_reason == end.reason


def test_a_finding_has_bounds(orch, agent):
    assert orch.report_finding(agent.id, HUGE, data={"x": "y" * 200_000}).recorded
    for how in ({"data": {"x": HUGE}}, {"finding_type": HUGE}):
        with pytest.raises(InvalidInput, match="may have") as raised:
            orch.report_finding(agent.id, "found", **how)
        assert raised.value.hint
        assert len(str(raised.value)) < 200

    [found] = orch.read_findings(agent.id)
    assert found.message.endswith("5000000 characters]")


@pytest.mark.parametrize(
    "how",
    [{"description": HUGE}, {"priority": HUGE}, {"extra": {"background": HUGE}}],
    ids=["description", "priority", "extra"],
)
def test_a_task_has_bounds(orch, how):
    with pytest.raises(InvalidInput, match="may have"):
        orch.create_task(**{"description": "tried", **how})

    assert [] == orch.tasks()
