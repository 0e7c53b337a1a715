"""The statistics of cleanups, from journals and from the summary of removed journals."""

from __future__ import annotations

import json
import os
import pwd
import random
import statistics

import attrs
import pytest
from support import exposition, past

from orchestrator_core.exceptions import RegistryDamaged
from orchestrator_core.operations import metrics
from orchestrator_core.operations.metrics import summary
from orchestrator_core.operations.metrics.cleanup_counts import (
    OUTCOMES,
    Histogram,
    unwind_outcome,
    unwind_reason,
)
from orchestrator_core.operations.metrics.exposition import METRICS, format_stats
from orchestrator_core.reconcile.sweep.findings import (
    Finding,
    FindingKind,
    ReapResult,
    SweepReport,
)
from orchestrator_core.saga import Unwind, UnwindReport
from orchestrator_core.saga.encoding import encode, make_entry
from orchestrator_core.saga.report import StepReport


def compact_journals(orch, *ids):
    return summary.compact_journals(orch._context, orch._terminator.sagas, ids)


def rows(stats):
    return {(row.reason, row.outcome): row.count for row in stats.cleanups}


# --- counts ---------------------------------------------------------------------------------------


def test_an_unused_root_has_empty_statistics_and_gets_no_file(fake_scene):
    orch = fake_scene.orchestrator()
    stats = orch.stats()

    assert (0, None, None, 0) == (stats.total, stats.success_rate, stats.p50_ms, stats.agents_live)
    assert [] == fake_scene.world.files("registry/STATS*")


def test_cleanups_are_counted_by_reason_and_outcome(fake_scene):
    orch, task, _ = past.end_some(fake_scene, 2)
    orch.report_progress(orch.deploy(task, fake_scene.spec()).id, "completed")
    gone = orch.deploy(task, fake_scene.spec("finishes"))
    fake_scene.fake.pass_time(20)
    with pytest.raises(Exception, match="not deployed"):
        orch.deploy(task, fake_scene.spec("refuses"))
    living = orch.deploy(task, fake_scene.spec())

    stats = orch.stats()

    assert "completed" == orch.agent(gone.id).status
    expected = {"terminate": 2, "report": 1, "exit": 1, "rollback": 1}
    assert expected == {reason: n for (reason, outcome), n in rows(stats).items()}
    assert past.cleanups(orch.root) == rows(stats)
    assert (5, 1.0, 1) == (stats.total, stats.success_rate, stats.agents_live)
    assert 1 == stats.sagas["committed"], living


def test_a_stuck_cleanup_counts_as_stuck_until_it_succeeds(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec("unkillable"))
    orch.terminate(agent.id)

    stuck = orch.stats()
    orch.abandon(agent.id, "spawn_tmux", reason="the machine is restarted tonight")
    orch.recover(force=True)

    assert ((agent.id,), 0.5) == (stuck.stuck, stuck.success_rate)
    assert {("terminate", "clean"): 1, ("terminate", "stuck"): 1} == rows(stuck)
    assert {("terminate", "clean"): 1, ("terminate", "abandoned"): 1} == rows(orch.stats())
    assert () == orch.stats().stuck


def test_the_freed_bytes_are_those_of_the_reports(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())
    before = orch.stats().bytes_freed

    end = orch.terminate(agent.id, keep_logs=False)

    assert end.bytes_freed > 0
    assert before + end.bytes_freed == orch.stats().bytes_freed


def test_an_unreadable_open_journal_is_reported(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())
    journal = orch.root / "sagas" / f"{agent.id}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"commit"', b'"c0mmit"'))

    stats = orch.stats()

    assert ((agent.id,), 1) == (stats.unreadable, stats.total)


def test_a_closed_journal_without_a_report_counts_as_unreadable(fake_scene):
    orch, _, [agent] = past.end_some(fake_scene)
    path = orch.root / "sagas" / "closed" / f"{agent}.jsonl"
    path.write_bytes(path.read_bytes()[:-40])

    assert {("unknown", "unreadable"): 1} == rows(orch.stats())
    compact_journals(orch, agent)
    assert {("unknown", "unreadable"): 1} == rows(orch.stats())


def test_the_last_line_of_a_closed_journal_is_sufficient(fake_scene):
    """The line has the complete report."""
    orch, _, [agent] = past.end_some(fake_scene)
    path = orch.root / "sagas" / "closed" / f"{agent}.jsonl"
    path.write_bytes(b"x" * 1_000_000 + b"\n" + path.read_bytes().splitlines(keepends=True)[-1])

    assert 1 == orch.stats().total
    assert agent == orch._terminator.sagas.journals.closed_report(agent).saga_id


def test_a_long_last_line_is_found(fake_scene):
    orch, _, [agent] = past.end_some(fake_scene)
    journals = orch._terminator.sagas.journals
    report = journals.closed_report(agent)
    long = attrs.evolve(report, why=attrs.evolve(report.why, message="m" * 100_000))
    path = journals.closed_file(agent)
    path.write_bytes(path.read_bytes() + encode([make_entry("close", report=long)], "now"))

    assert 100_000 == len(journals.closed_report(agent).why.message)


OUTCOME_CASES = [
    ("clean", True, StepReport("s", "undone", detail={"proven": True})),
    ("clean", True, StepReport("s", "left")),
    ("unproven", True, StepReport("s", "undone", detail={"proven": False})),
    ("abandoned", True, StepReport("s", "abandoned", detail={"proven": False})),
    ("stuck", False, StepReport("s", "failed")),
]


@pytest.mark.parametrize(("outcome", "closed", "step"), OUTCOME_CASES)
def test_an_unwinding_has_one_outcome(outcome, closed, step):
    report = UnwindReport("a", Unwind.terminal("over"), (step,), closed)

    assert outcome == unwind_outcome(report)
    assert outcome in OUTCOMES


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("deadline", Unwind.terminal("", by="deadline")),
        ("terminal", Unwind.terminal("")),
        ("rollback", Unwind.rollback("", by="a test")),
        ("recovery", Unwind.recovery("")),
        ("x" * 60, Unwind.terminal("", by="x" * 1000)),
    ],
)
def test_a_reason_is_a_short_word(reason, why):
    assert reason == unwind_reason(why)


# --- durations ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_correct_to_five_per_cent(seed):
    chance = random.Random(seed)
    times = [chance.lognormvariate(3, 2) for _ in range(2000)]
    histogram = Histogram()
    for ms in times:
        histogram.add(ms)

    exact = statistics.quantiles(times, n=100, method="inclusive")
    for share, ms in ((0.5, exact[49]), (0.95, exact[94]), (0.99, exact[98])):
        assert ms == pytest.approx(histogram.percentile(share), rel=0.06)
    assert max(times) == histogram.max_ms


def test_extreme_durations_have_a_bucket():
    histogram = Histogram()
    for ms in (0.0, -1.0, 1e-9, 1e300):
        histogram.add(ms)

    assert 4 == histogram.count
    assert 3 == histogram.cumulative(0)


def test_the_bounds_at_powers_of_two_are_exact():
    histogram = Histogram()
    for ms in (1.0, 1.0001, 2.0, 2.0001, 4.0):
        histogram.add(ms)

    assert [1, 3, 5] == [histogram.cumulative(doubling) for doubling in range(3)]


# --- the summary --------------------------------------------------------------------------------


def test_a_compaction_changes_no_count(fake_scene):
    """Every value of the statistics is the same with the journals and without them."""
    orch, _, ids = past.end_some(fake_scene, 4)
    before = orch.stats()

    freed = compact_journals(orch, *ids[:3]).bytes_freed

    assert attrs.evolve(before, since="") == attrs.evolve(orch.stats(), since="")
    assert freed > 0
    assert ids[3:] == past.journals(orch.root)


def test_a_repeated_compaction_counts_once(fake_scene):
    orch, _, ids = past.end_some(fake_scene, 2)
    compact_journals(orch, *ids)
    compact_journals(orch, *ids, *ids)

    assert 2 == orch.stats().total


def test_a_compaction_ignores_open_sagas(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())

    assert () == compact_journals(orch, agent.id, "nobody-000000-000000").sagas
    assert 1 == orch.stats().sagas["committed"]


def test_a_pending_journal_is_not_counted_again(fake_scene):
    """A crash between the count and the removal leaves it. The next compaction removes it."""
    orch, _, ids = past.end_some(fake_scene, 2)
    journal = (orch.root / "sagas" / "closed" / f"{ids[0]}.jsonl").read_bytes()
    compact_journals(orch, ids[0])
    (orch.root / "sagas" / "closed" / f"{ids[0]}.jsonl").write_bytes(journal)
    path = orch.root / "registry" / "STATS.json"
    document = json.loads(path.read_text()) | {"pending": [ids[0]]}
    path.write_text(json.dumps(document))

    assert 2 == orch.stats().total
    compact_journals(orch)
    assert ids[1:] == past.journals(orch.root)
    assert 2 == orch.stats().total
    assert [] == past.summary(orch.root)["pending"]


def test_a_damaged_summary_is_quarantined_once_and_reported(fake_scene):
    orch, _, ids = past.end_some(fake_scene, 2)
    compact_journals(orch, ids[0])
    (orch.root / "registry" / "STATS.json").write_bytes(b'{"pending": [')

    assert 1 == orch.stats().total  # One agent is left to count.
    assert 1 == orch.stats().total
    [journal] = fake_scene.world.files("registry/STATS.json.damaged-*")
    assert [str(orch.root / journal)] == [document["kept"] for document in orch.damaged]


def test_an_invalid_summary_is_refused_with_the_name_of_the_field(fake_scene):
    orch, _, ids = past.end_some(fake_scene)
    compact_journals(orch, *ids)
    path = orch.root / "registry" / "STATS.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bytes_freed": "much"}))

    with pytest.raises(RegistryDamaged, match="bytes_freed"):
        orch.stats()


def test_unknown_fields_stay_in_the_summary(fake_scene):
    orch, _, ids = past.end_some(fake_scene, 2)
    compact_journals(orch, ids[0])
    path = orch.root / "registry" / "STATS.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of": "a later release"}))

    compact_journals(orch, ids[1])

    assert "a later release" == past.summary(orch.root)["of"]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_sum_is_consistent_during_a_compaction(fake_scene, monkeypatch, times):
    """A journal that is compacted meanwhile is neither missed nor counted twice."""
    orch, _, ids = past.end_some(fake_scene, 6)
    left = iter(ids[:times])  # After three attempts, the count holds the lock.
    original = metrics._add_closed_sagas

    def meanwhile(summary, sagas):
        agent = next(left, None)
        if agent is not None:
            compact_journals(orch, agent)
        return original(summary, sagas)

    monkeypatch.setattr(metrics, "_add_closed_sagas", meanwhile)

    assert 6 == orch.stats().total
    assert sorted(ids[times:]) == past.journals(orch.root)


# --- findings -------------------------------------------------------------------------------


def swept(*findings, reaped=(), dry_run=False):
    return SweepReport(
        findings=findings,
        reaped=tuple(ReapResult(finding=one, success=True) for one in reaped),
        dry_run=dry_run,
    )


def found(kind, subject):
    return Finding(kind=kind, subject=subject, what="it is there")


def test_a_leftover_of_several_sweeps_is_counted_once(fake_scene):
    orch = fake_scene.orchestrator()
    stray = found(FindingKind.ORPHAN_SESSION, "session agent_x")
    silent = found(FindingKind.SILENT, "agent y")

    fresh = [summary.record_sweep(orch._context, swept(stray, silent, reaped=[stray]))]
    fresh.append(summary.record_sweep(orch._context, swept(silent)))
    fresh.append(summary.record_sweep(orch._context, swept()))
    fresh.append(summary.record_sweep(orch._context, swept(silent)))  # Anew.

    document = {row.kind: (row.found, row.reaped) for row in orch.stats().leftovers}
    assert {"stray_session": (1, 1), "silent": (2, 0)} == document
    assert [(stray, silent), (), (), (silent,)] == fresh


def test_a_dry_run_is_not_counted(fake_scene):
    orch = fake_scene.orchestrator()
    stray = found(FindingKind.ORPHAN_SESSION, "session agent_x")

    summary.record_sweep(orch._context, swept(stray, dry_run=True))

    assert () == orch.stats().leftovers


def test_a_sweep_that_cannot_be_recorded_is_no_error(fake_scene):
    orch = fake_scene.orchestrator()
    (orch.root / "registry" / "STATS.json").mkdir()
    (orch.root / "registry" / "STATS.json" / "x").mkdir()
    (orch.root / "registry" / "STATS.json.lock").mkdir()
    stray = found(FindingKind.ORPHAN_SESSION, "session agent_x")

    assert (stray,) == summary.record_sweep(orch._context, swept(stray))


# --- for Prometheus -----------------------------------------------------------------------------


def test_the_exposition_has_the_values_of_the_statistics(fake_scene):
    orch, task, _ = past.end_some(fake_scene, 3)
    orch.terminate(orch.deploy(task, fake_scene.spec("unkillable")).id)
    stats = orch.stats()

    document = exposition.read(format_stats(stats))

    name = "orchestrator_core_cleanups_total"
    assert [3.0] == exposition.values(document, name, reason="terminate", outcome="clean")
    assert [] == exposition.values(document, name, outcome="stuck")  # The outcome may still change.
    assert [1.0] == exposition.values(
        document, "orchestrator_core_cleanups_stuck", reason="terminate"
    )
    assert [0.75] == exposition.values(document, "orchestrator_core_cleanup_success_ratio")
    histogram = document["orchestrator_core_cleanup_duration_seconds"]
    assert "histogram" == histogram["type"]
    assert [3.0] == exposition.values(
        document, "orchestrator_core_cleanup_duration_seconds", le="+Inf"
    )
    assert {f"orchestrator_core_{name}" for name in METRICS} == set(document)


def test_labels_are_escaped(fake_scene):
    hostile = 'a"b\\c\nd{e}=,f'
    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec())
    orch._terminator.sagas.unwind(
        agent.id, Unwind.terminal("", by=hostile, status="terminated"), timeout_s=1
    )

    document = exposition.read(format_stats(orch.stats()))

    assert [1.0] == exposition.values(document, "orchestrator_core_cleanups_total", reason=hostile)


def test_an_unused_root_has_an_exposition(fake_scene):
    document = exposition.read(format_stats(fake_scene.orchestrator().stats()))

    assert [0.0] == exposition.values(document, "orchestrator_core_agents_live")
    assert [] == exposition.values(document, "orchestrator_core_cleanup_success_ratio")


def test_an_unknown_value_has_no_sample(fake_scene):
    orch, _, _ = past.end_some(fake_scene)
    (orch.root / "registry" / "GLOBAL_REGISTRY.json").write_text("[")

    stats = orch.stats()

    assert stats.agents_live is None
    document = exposition.read(format_stats(stats))
    assert [] == exposition.values(document, "orchestrator_core_agents_live")


# --- the name under which a step is abandoned -----------------------------------------------------


@pytest.mark.parametrize("error", [KeyError, OSError])
def test_a_step_is_abandoned_under_the_uid_of_a_user_without_a_name(fake_scene, monkeypatch, error):
    """A container may run under a uid that has no entry among the users, and no USER."""

    def no_entry(uid):
        raise error(f"uid not found: {uid}")

    orch, task, _ = past.end_some(fake_scene)
    agent = orch.deploy(task, fake_scene.spec("unkillable"))
    orch.terminate(agent.id)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)

    orch.abandon(agent.id, "spawn_tmux", reason="the machine is restarted tonight")

    journal = (orch.root / "sagas" / f"{agent.id}.jsonl").read_text()
    assert f'"uid {os.getuid()} (pid {os.getpid()})"' in journal
