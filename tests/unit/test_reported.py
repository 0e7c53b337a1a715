"""Reports are readable while their agent is alive, archived, compressed and torn."""

import gzip
import json
import os

import pytest

from orchestrator_core.deployment import report_reader as reported
from orchestrator_core.exceptions import NotFound


@pytest.fixture
def orch(fake_scene):
    return fake_scene.orchestrator()


@pytest.fixture
def task(orch):
    return orch.create_task("found").id


@pytest.fixture
def agents(fake_scene, orch, task):
    """Two agents with findings, one after the other."""
    first, second = (orch.deploy(task, fake_scene.spec()).id for _ in range(2))
    orch.report_finding(first, "one", severity="high", data={"line": 1})
    orch.report_finding(second, "two")
    orch.report_finding(first, "three")
    orch.report_progress(second, "working", message="half of it", progress=50)
    return first, second


def messages(found):
    return [each.message for each in found]


def test_an_agents_findings_are_read_in_their_order(orch, agents):
    found = orch.read_findings(agents[0])
    assert ["one", "three"] == messages(found)
    assert ("high", {"line": 1}, agents[0]) == (found[0].severity, found[0].data, found[0].agent_id)


@pytest.mark.usefixtures("agents")
def test_a_tasks_findings_are_those_of_all_its_agents(orch, task):
    found = orch.read_findings(task_id=task)
    assert {"one", "two", "three"} == set(messages(found))
    assert sorted(each.timestamp for each in found) == [each.timestamp for each in found]
    assert 2 == len(orch.read_findings(task_id=task, last=2))
    assert [] == orch.read_findings(task_id=task, last=0)


def test_progress_is_read_back_as_it_was_reported(orch, agents):
    [entry] = orch.read_progress(agents[1])
    assert ("working", 50, "half of it") == (entry.status, entry.progress, entry.message)
    assert {"timestamp", "agent_id", "status", "progress", "message"} == entry.to_dict().keys()


def test_findings_are_readable_after_their_agents_end(orch, task, agents):
    orch.terminate(agents[0])
    assert ["one", "three"] == messages(orch.read_findings(agents[0]))
    assert 3 == len(orch.read_findings(task_id=task))


def test_compressed_findings_are_readable(fake_scene, orch, task, agents):
    orch.terminate(agents[0])
    [path] = (fake_scene.root / task / "archive").glob("*_findings.jsonl")
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert ["one", "three"] == messages(orch.read_findings(agents[0]))


def test_a_torn_line_is_skipped_alone(fake_scene, orch, task, agents):
    path = fake_scene.root / task / "findings" / f"{agents[0]}_findings.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert ["one"] == messages(orch.read_findings(agents[0]))


@pytest.mark.usefixtures("agents")
def test_the_newest_reports_are_found_without_reading_all_files(
    fake_scene, orch, task, monkeypatch
):
    """Each report's answer contains some of them: its cost does not grow with the past."""
    findings = fake_scene.root / task / "findings"
    for number in range(20):
        old = findings / f"old-{number}_findings.jsonl"
        line = {"timestamp": f"2020-01-01T00:00:{number:02}+00:00", "agent_id": "old"}
        old.write_text(json.dumps(line) + "\n")
        os.utime(old, (1_600_000_000, 1_600_000_000))
    read = []
    original = reported.read_maybe_gzipped
    monkeypatch.setattr(
        reported, "read_maybe_gzipped", lambda path: read.append(path) or original(path)
    )

    found = orch.read_findings(task_id=task, last=3)

    assert {"one", "two", "three"} == set(messages(found))
    assert 2 == len(read)
    assert 23 == len(orch.read_findings(task_id=task, last=100))
    assert 23 == len(orch.read_findings(task_id=task))


@pytest.mark.parametrize("last", [0, 1, 2, 3, 5, 100])
def test_the_newest_reports_are_the_last_of_all_whatever_the_files_times(
    last, fake_scene, orch, task, agents
):
    """A copied file has the time of the copy, which is later than any of its lines."""
    copied = fake_scene.root / task / "findings" / f"{agents[0]}_findings.jsonl"
    os.utime(copied, (4_000_000_000, 4_000_000_000))
    orch.report_finding(agents[1], "four")

    everything = orch.read_findings(task_id=task)

    assert everything[len(everything) - min(last, 4) :] == orch.read_findings(
        task_id=task, last=last
    )


def test_reports_of_the_same_millisecond_stay_in_order(fake_scene, orch, task):
    agent = orch.deploy(task, fake_scene.spec()).id
    at = "2026-01-01T00:00:00.000+00:00"
    lines = [{"timestamp": at, "agent_id": agent, "message": f"{n}"} for n in range(4)]
    path = fake_scene.root / task / "findings" / f"{agent}_findings.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    assert ["0", "1", "2", "3"] == messages(orch.read_findings(agent))
    assert ["2", "3"] == messages(orch.read_findings(agent, last=2))


def test_an_unknown_agent_or_task_has_no_findings(orch, agents):
    other = orch.create_task("another").id
    for ask in ({"agent_id": "nobody"}, {"task_id": "TASK-none"}):
        with pytest.raises(NotFound):
            orch.read_findings(**ask)
    with pytest.raises(NotFound, match="has no agent"):
        orch.read_findings(agents[0], task_id=other)
    assert [] == orch.read_findings(task_id=other)
