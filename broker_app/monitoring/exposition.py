"""Exposition: a host's metrics as a `prometheus_client` registry, which writes the format that a scraper accepts.

Only the exposition is the library's. Its multi-process storage took 19 to 31 µs per update, ours takes 4 µs.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from broker_app.metrics.catalogue import METRICS, Metric, MetricType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric as Family

    from broker_app.metrics.reader import Series

logger = logging.getLogger(__name__)


class SnapshotCollector(Collector):
    """Collector over a snapshot of a host: families in catalogue order, with sorted series.

    Args:
        numbers: Values by series; for a histogram the bucket counts, the +Inf count, and the sum.
    """

    def __init__(self, numbers: Mapping[Series, Sequence[float]]) -> None:
        self._numbers = numbers

    def describe(self) -> list[Family]:
        """Return all families without samples, so that the registry knows their names."""
        return [_FAMILIES[metric.kind](metric.name, metric.help) for metric in METRICS.values()]

    def collect(self) -> Iterator[Family]:
        """Yield the families that have series."""
        by_metric: dict[Metric, list[tuple[Series, Sequence[float]]]] = defaultdict(list)
        for series, values in self._numbers.items():
            by_metric[series.metric].append((series, values))
        for metric in METRICS.values():
            if metric in by_metric:
                yield _family(metric, sorted(by_metric[metric], key=lambda one: one[0].labels))


class FamilyCollector(Collector):
    """Collector of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> list[Family]:
        """Return the family; the registry derives from it which names it uses."""
        return [self._family]

    describe = collect


def registry_of(numbers: Mapping[Series, Sequence[float]], custom: Iterable[Family] = ()) -> CollectorRegistry:
    """Return a registry that collects a snapshot, and custom families whose names are not in use."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(numbers))
    for family in custom:
        try:
            registry.register(FamilyCollector(family))
        except ValueError as error:
            _log_refused(family.name, str(error))
    return registry


@lru_cache(maxsize=1_000)
def _log_refused(name: str, problem: str) -> None:
    """Log once that a family is left out."""
    logger.warning("the custom metric %s is left out: %s", name, problem)


def encode(
    registry: CollectorRegistry, accept: str = "", accept_encoding: str = ""
) -> tuple[bytes, dict[str, str]]:
    """Return a registry's metrics and the HTTP headers that describe them.

    Args:
        registry: Registry to collect.
        accept: Accept header: OpenMetrics if it names it, else the text format.
        accept_encoding: Accept-Encoding header; with gzip the metrics are compressed.
    """
    headers: dict[str, str] = {}

    def start_response(_: str, pairs: list[tuple[str, str]]) -> None:
        headers.update(pairs)

    request = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}
    request |= {"HTTP_ACCEPT": accept if _is_valid(accept) else "", "HTTP_ACCEPT_ENCODING": accept_encoding}
    return b"".join(make_wsgi_app(registry)(request, start_response)), headers


def _is_valid(accept: str) -> bool:
    """Return whether the library can read an Accept header; a version that is no number raises."""
    try:
        choose_encoder(accept)
    except (TypeError, ValueError):
        return False
    return True


_FAMILIES: dict[MetricType, Any] = {
    MetricType.COUNTER: CounterMetricFamily,
    MetricType.GAUGE: GaugeMetricFamily,
    MetricType.HISTOGRAM: HistogramMetricFamily,
}


def _family(metric: Metric, entries: Iterable[tuple[Series, Sequence[float]]]) -> Family:
    family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
    for series, values in entries:
        if metric.kind is MetricType.HISTOGRAM:
            buckets = zip(_bound_labels(series.bounds), accumulate(values[:-1]), strict=True)
            family.add_metric(series.labels, list(buckets), values[-1])
        else:
            family.add_metric(series.labels, values[0])
    result: Family = family
    return result


@lru_cache(maxsize=16)
def _bound_labels(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Return the ``le`` labels of all buckets; cached, since most histograms share their bounds."""
    return (*map(bound_label, bounds), "+Inf")


def bound_label(bound: float) -> str:
    """Return a bucket's upper bound as its ``le`` label."""
    return str(floatToGoString(bound))
