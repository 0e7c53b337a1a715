"""Ends and reports while another process is in the middle of the same."""

from __future__ import annotations

import pytest
from support.clock import next_millisecond

from orchestrator_core import AgentSpec, StorageError, WaitTimeout
from orchestrator_core.registry.group_commit import Transaction
from orchestrator_core.testing import Scene

SPEC = AgentSpec(type="a", prompt="do it", command=["sleep", "1000"])


@pytest.fixture
def scene():
    with Scene() as made:
        yield made


@pytest.fixture
def agent(scene):
    orch = scene.orchestrator()
    return orch.deploy(orch.create_task("tried").id, SPEC)


# --- waiting -------------------------------------------------------------------------------------


def test_a_wait_for_an_agent_that_another_process_unwinds_times_out(scene, agent):
    """A wait raises what it documents, also if the agent is dead."""
    other = scene.orchestrator()
    scene.terminal.kill_supervisor(agent.tmux_session)

    with (
        other._terminator.sagas.open(agent.id),
        pytest.raises(WaitTimeout, match="not unwound yet"),
    ):
        scene.orchestrator(recover=False).wait(agent.id, timeout_s=0.1)

    assert "error" == scene.orchestrator(recover=False).wait(agent.id, timeout_s=5).status


# --- an end whose journal was not archived any more ------


@pytest.mark.parametrize(
    "call",
    [
        lambda orch, agent: orch.terminate(agent).status,
        lambda orch, agent: orch.wait(agent, timeout_s=1).status,
        lambda orch, agent: orch.finish(agent).status,
        lambda orch, agent: orch.report_progress(agent, "working").end.status,
        lambda orch, agent: orch.report_progress(agent, "completed").end.status,
        lambda orch, agent: orch._terminator.decide_grace(agent, timeout_s=1).why.detail["status"],
    ],
    ids=["terminate", "wait", "finish", "a report", "a last report", "the end of a grace"],
)
def test_a_closed_saga_among_the_open_ones_is_an_end_for_every_caller(scene, agent, call):
    orch = scene.orchestrator(recover=False)
    orch.terminate(agent.id)
    name = f"{agent.id}.jsonl"
    (orch.root / "sagas" / "closed" / name).rename(orch.root / "sagas" / name)

    assert "terminated" == call(orch, agent.id)


# --- a report whose record is refused -------------------------------------------------------------


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_finding_that_is_reported_again_after_a_refused_write_is_there_once(
    scene, agent, monkeypatch, earlier, torn
):
    orch = scene.orchestrator()
    for number in range(earlier):
        orch.report_finding(agent.id, f"earlier {number}")
    [file] = (orch.root / agent.task_id / "findings").iterdir() if earlier else [None]
    if torn and file is not None:
        with file.open("ab") as findings:
            findings.write(b'{"torn')
    write, refused = Transaction.write, []

    def refuse_once(transaction, data):
        if not refused:
            refused.append(data)
            raise StorageError("no space left")
        return write(transaction, data)

    monkeypatch.setattr(Transaction, "write", refuse_once)
    next_millisecond()  # Within the same one, the record does not change.

    with pytest.raises(StorageError):
        orch.report_finding(agent.id, "one bug")
    assert earlier == len(orch.read_findings(agent.id))
    assert orch.report_finding(agent.id, "one bug").recorded

    messages = [finding.message for finding in orch.read_findings(agent.id)]
    assert [*(f"earlier {number}" for number in range(earlier)), "one bug"] == messages
