"""
The statistics of a root for Prometheus, in an application that Prometheus already scrapes.

::

    registry.register(StatsCollector(orch))

At each scrape the application's registry gets the metrics of ``orchestrator-core stats
--format prometheus``, counted from the journals at that time. This module keeps no counters,
starts no server, and registers nowhere by itself.

It needs the extra ``prometheus``: ``pip install 'orchestrator-core[prometheus]'``.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from orchestrator_core.exceptions import InvalidInput, OrchestratorError
from orchestrator_core.operations.metrics.exposition import METRICS, PREFIX, to_samples
from orchestrator_core.system.log import emit

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector
except ImportError as error:

    class PrometheusMissing(OrchestratorError, ImportError):
        """The extra ``prometheus`` is not installed."""

        code = "prometheus-missing"
        default_hint = "pip install 'orchestrator-core[prometheus]'"

    raise PrometheusMissing(f"prometheus_client is not installed: {error}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from orchestrator_core.operations.metrics.exposition import Sample
    from orchestrator_core.orchestrator import Orchestrator

__all__ = ["StatsCollector"]


class StatsCollector(Collector):
    """
    Counts one root or several at each scrape.

    A count takes about 0.5 s for 10,000 closed journals. A root that cannot be counted has no
    samples, and the reason is logged as ``stats.not_counted``; the other roots have theirs.
    Alert on a missing ``orchestrator_core_info``.
    """

    def __init__(self, *orchestrators: Orchestrator) -> None:
        """
        Count the roots of *orchestrators*; a registry takes only one collector.

        Raises:
            InvalidInput: There is no orchestrator, or there are two of one root.
        """
        roots = [orch.root.resolve() for orch in orchestrators]
        if not roots or len(set(roots)) < len(roots):
            raise InvalidInput(
                f"{len(roots)} orchestrators of {len(set(roots))} roots are given",
                hint="give one orchestrator for each root, and at least one",
            )
        self._orchestrators = orchestrators

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without samples, so that registering counts nothing."""
        return _families({})

    def collect(self) -> Iterable[Metric]:
        """Count, and return the metrics."""
        found: dict[str, list[Sample]] = {}
        for orch in self._orchestrators:
            try:
                samples = to_samples(orch.stats())
            except OrchestratorError as error:
                _log_not_counted(orch, error)
                continue
            for name, values in samples.items():
                found.setdefault(name, []).extend(values)
        return _families(found)


def _log_not_counted(orch: Orchestrator, error: OrchestratorError) -> None:
    """A scrape has no samples of that root."""
    emit(logging.ERROR, "stats.not_counted", root=str(orch.root), error=str(error))


def _families(samples: Mapping[str, list[Sample]]) -> list[Metric]:
    return [
        _FAMILIES[kind](f"{PREFIX}{name}", text, samples.get(name, []))
        for name, (kind, text) in METRICS.items()
    ]


def _values(
    family: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    samples: list[Sample],
) -> Metric:
    labels = list(samples[0].labels) if samples else []
    metric = family(name, text, labels=labels)
    for sample in samples:
        metric.add_metric(list(sample.labels.values()), sample.value)
    return metric


def _histogram(name: str, text: str, samples: list[Sample]) -> Metric:
    metric = HistogramMetricFamily(name, text, labels=["root"])
    for root in dict.fromkeys(sample.labels["root"] for sample in samples):
        own = [sample for sample in samples if sample.labels["root"] == root]
        buckets = [(each.labels["le"], each.value) for each in own if each.suffix == "_bucket"]
        [total] = [each.value for each in own if each.suffix == "_sum"]
        metric.add_metric([root], buckets, total)
    return metric


_FAMILIES: dict[str, Callable[[str, str, list[Sample]], Metric]] = {
    "gauge": functools.partial(_values, GaugeMetricFamily),
    "counter": functools.partial(_values, CounterMetricFamily),
    "histogram": _histogram,
}
