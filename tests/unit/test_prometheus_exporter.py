"""The statistics in an application's Prometheus registry equal those of the command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import exposition, past
from support.fakes import a_fake_scene

from orchestrator_core import InvalidInput
from orchestrator_core.cli import main
from orchestrator_core.operations import metrics
from orchestrator_core.operations.metrics import summary
from orchestrator_core.operations.metrics.exposition import METRICS, PREFIX
from orchestrator_core.prometheus import StatsCollector

TOP = Path(__file__).parents[2]


@pytest.fixture
def other_scene():
    with a_fake_scene() as made:
        yield made


def registry_of(*orchestrators):
    registry = CollectorRegistry()
    registry.register(StatsCollector(*orchestrators))
    return registry


def scraped(registry):
    return exposition.read(generate_latest(registry).decode())


def an_eventful_past(scene):
    """Ends of several kinds, one of them STUCK, a finding of a sweep, and an active agent."""
    orch, task, _ = past.end_some(scene, 3)
    orch.report_progress(orch.deploy(task, scene.spec()).id, "completed")
    orch.terminate(orch.deploy(task, scene.spec("unkillable")).id)
    orch.deploy(task, scene.spec())
    scene.fake.pass_time(1)
    (orch.root / "TASK-20260101-000000-00000000").mkdir()
    orch.sweep(reap=True)
    return orch


# --- the same as the command line ----------------------------------------------------------------


@pytest.mark.parametrize("make", [an_eventful_past, lambda scene: scene.orchestrator()])
def test_a_scrape_returns_what_the_command_line_prints(make, fake_scene, capsys):
    """Each metric has the same name, type, samples and help."""
    orch = make(fake_scene)

    assert 0 == main(["--root", str(orch.root), "stats", "--format", "prometheus"])
    assert exposition.read(capsys.readouterr().out) == scraped(registry_of(orch))


def test_a_scrape_has_every_metric_and_no_other(fake_scene):
    families = scraped(registry_of(an_eventful_past(fake_scene)))

    assert {f"{PREFIX}{name}" for name in METRICS} == set(families)
    assert [] == [name for name, family in families.items() if not family["samples"]]


def test_a_collector_counts_at_each_scrape(fake_scene):
    orch, task, _ = past.end_some(fake_scene)
    registry = registry_of(orch)
    name = "orchestrator_core_cleanups_total"

    before = exposition.values(scraped(registry), name, reason="terminate")
    orch.terminate(orch.deploy(task, fake_scene.spec()).id)

    assert ([1.0], [2.0]) == (
        before,
        exposition.values(scraped(registry), name, reason="terminate"),
    )


def test_registering_counts_nothing(fake_scene, monkeypatch):
    """The start of a program takes as long with 10,000 journals as with none."""
    asked = []
    monkeypatch.setattr(metrics, "stats", lambda *given: asked.append(given))

    registry_of(fake_scene.orchestrator())

    assert [] == asked


def test_a_registry_refuses_a_second_collector(fake_scene):
    """A second collector would duplicate every sample."""
    orch = fake_scene.orchestrator()
    registry = registry_of(orch)

    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(StatsCollector(orch))


def test_the_metrics_have_an_openmetrics_form(fake_scene):
    registry = registry_of(an_eventful_past(fake_scene))

    families = list(text_string_to_metric_families(openmetrics.generate_latest(registry).decode()))

    assert len(METRICS) == len(families)


# --- several roots -------------------------------------------------------------------------------


def test_several_roots_share_the_metrics_each_under_its_id(fake_scene, other_scene):
    first, second = an_eventful_past(fake_scene), past.end_some(other_scene, 2)[0]

    families = scraped(registry_of(first, second))

    for orch in (first, second):
        root = "root", orch._context.root_id
        for name, alone in scraped(registry_of(orch)).items():
            samples = families[name]["samples"].items()
            assert alone["samples"] == {key: n for key, n in samples if root in key[1]}


def test_a_root_that_cannot_be_counted_does_not_affect_other_roots(fake_scene, other_scene, caplog):
    """The root's metrics are missing, which an alert can notice. The reason is logged."""
    broken, _, ids = past.end_some(fake_scene, 2)
    summary.compact_journals(broken._context, broken._terminator.sagas, ids[:1])
    path = broken.root / "registry" / "STATS.json"
    path.write_text(path.read_text().replace('"bytes_freed": ', '"bytes_freed": "much", "x": '))
    well, _, _ = past.end_some(other_scene)
    registry = registry_of(broken, well)
    hosts = prometheus_client.Counter("host_requests", "Its own.", registry=registry)
    hosts.inc()

    families = scraped(registry)

    assert [1.0] == exposition.values(families, "host_requests_total")
    assert [1.0] == exposition.values(families, "orchestrator_core_info")
    assert [("stats.not_counted", str(broken.root))] == [
        (record.getMessage(), record.root) for record in caplog.records
    ]


def test_no_root_or_one_root_twice_is_refused(fake_scene):
    orch = fake_scene.orchestrator()
    for given in ((), (orch, orch), (orch, fake_scene.orchestrator())):
        with pytest.raises(InvalidInput):
            StatsCollector(*given)


# --- no side effects -----------------------------------------------------------------------------


def test_a_collector_starts_no_server_and_uses_only_the_given_registry(fake_scene, monkeypatch):
    def refuse(*_given, **_how):
        raise AssertionError("an unexpected side effect")

    before = generate_latest(prometheus_client.REGISTRY).count(b"orchestrator_core")
    threads = set(threading.enumerate())
    orch = an_eventful_past(fake_scene)
    monkeypatch.setattr(socket.socket, "bind", refuse)

    scraped(registry_of(orch))

    assert set() == set(threading.enumerate()) - threads
    assert 0 == before == generate_latest(prometheus_client.REGISTRY).count(b"orchestrator_core")


def test_without_the_client_the_error_names_the_extra_and_the_rest_works(short_tmp):
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from orchestrator_core import Orchestrator, OrchestratorError\n"
        "Orchestrator('ws').stats()\n"
        "try: import orchestrator_core.prometheus\n"
        "except OrchestratorError as error: print(error.code, error.hint)"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code],
        cwd=short_tmp,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        text=True,
    )
    assert "prometheus-missing pip install 'orchestrator-core[prometheus]'\n" == output
