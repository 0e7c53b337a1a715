"""
The statistics of a root for Prometheus, from inside of an application that it scrapes anyway.

::

    registry.register(StatsCollector(orch))

The application's registry asks, at each scrape, and gets what ``orchestrator-core stats
--format prometheus`` prints: the same metrics, counted from the journals there and then.
Nothing is counted along, no server is started, and no registry is touched but the one given.

It needs the extra ``prometheus``: ``pip install 'orchestrator-core[prometheus]'``.
"""

from __future__ import annotations

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

    raise PrometheusMissing(f"there is no prometheus_client here: {error}") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from orchestrator_core.operations.metrics.exposition import Sample
    from orchestrator_core.orchestrator import Orchestrator

__all__ = ["StatsCollector"]


class StatsCollector(Collector):
    """
    Counts one root, or several, whenever it is asked.

    That takes about half a second for ten thousand closed journals. A root that cannot be
    counted has no samples, and the others have theirs: alert on a missing
    ``orchestrator_core_info``. Why is logged, as ``stats.not_counted``.
    """

    def __init__(self, *orchestrators: Orchestrator) -> None:
        """
        Count these; a registry takes one collector, so give it all.

        Raises:
            InvalidInput: None was given, or two of one root.
        """
        roots = [orch.root.resolve() for orch in orchestrators]
        if not roots or len(set(roots)) < len(roots):
            raise InvalidInput(
                f"a collector for {len(roots)} orchestrators of {len(set(roots))} roots",
                hint="give one for each root",
            )
        self._orchestrators = orchestrators

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without a sample: registering counts nothing."""
        return _families({})

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        found: dict[str, list[Sample]] = {}
        for orch in self._orchestrators:
            try:
                samples = to_samples(orch.stats())
            except OrchestratorError as error:
                _log_not_counted(orch, error)
                continue
            for name, more in samples.items():
                found.setdefault(name, []).extend(more)
        return _families(found)


def _log_not_counted(orch: Orchestrator, error: OrchestratorError) -> None:
    """A scrape has no samples of that root."""
    emit(logging.ERROR, "stats.not_counted", root=str(orch.root), error=str(error))


def _families(samples: Mapping[str, list[Sample]]) -> list[Metric]:
    return [
        _FAMILIES[kind](f"{PREFIX}{name}", about, samples.get(name, []))
        for name, (kind, about) in METRICS.items()
    ]


def _gauge(name: str, about: str, samples: list[Sample]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=_labels_of(samples))
    for sample in samples:
        family.add_metric(list(sample.labels.values()), sample.value)
    return family


def _counter(name: str, about: str, samples: list[Sample]) -> Metric:
    family = CounterMetricFamily(name, about, labels=_labels_of(samples))
    for sample in samples:
        family.add_metric(list(sample.labels.values()), sample.value)
    return family


def _histogram(name: str, about: str, samples: list[Sample]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=["root"])
    for root in dict.fromkeys(sample.labels["root"] for sample in samples):
        mine = [sample for sample in samples if sample.labels["root"] == root]
        buckets = [(one.labels["le"], one.value) for one in mine if one.suffix == "_bucket"]
        [total] = [one.value for one in mine if one.suffix == "_sum"]
        family.add_metric([root], buckets, total)
    return family


def _labels_of(samples: list[Sample]) -> list[str]:
    return list(samples[0].labels) if samples else []


_FAMILIES: dict[str, Callable[[str, str, list[Sample]], Metric]] = {
    "gauge": _gauge,
    "counter": _counter,
    "histogram": _histogram,
}
