"""Collector: a snapshot of all metrics of a host, from its processes, the broker, and the settings."""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import celery

from broker_app.errors import FleetError, SpoolError
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.state import FleetState
from broker_app.metrics import catalogue
from broker_app.metrics.reader import MetricsReader, MetricTotals, Series
from broker_app.metrics.registry import custom_folder_of, folder_of
from broker_app.monitoring.broker_cache import BrokerCache
from broker_app.monitoring.broker_reader import BrokerNumbers, BrokerReader
from broker_app.monitoring.custom_metrics import CustomMetricsReader
from broker_app.monitoring.exposition import registry_of
from broker_app.publishing.spool.store import SpoolFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from broker_app.app import BrokerApp
    from broker_app.metrics.catalogue import Metric
    from broker_app.metrics.reader import Numbers

logger = logging.getLogger(__name__)

SILENT_SECONDS = 30.0
"""A node samples its gauges every second; after this long without a sample it counts as down, even if its
process is alive."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All metrics at one moment.

    Attributes:
        at: Time of the snapshot, in seconds since the epoch.
        reading: Totals of the processes on this host.
        broker: Figures of the broker.
        broker_age: Age of the broker's figures, in seconds.
        numbers: All metrics as series.
    """

    at: float
    reading: MetricTotals
    broker: BrokerNumbers
    broker_age: float
    numbers: Numbers


class Collector:
    """Collects the metrics of one app on this host.

    Args:
        app: The app; its settings name the metric files and the broker.
        version: Version of broker-app.
    """

    def __init__(self, app: BrokerApp, version: str) -> None:
        settings = app.settings
        self._app = app
        self._version = version
        publish = settings.publish
        self._spool = SpoolFile(settings.state_dir, publish.spool_max_messages, publish.spool_max_bytes)
        self._reader = MetricsReader(folder_of(app))
        self._custom = CustomMetricsReader(custom_folder_of(app))
        self._broker = BrokerCache(
            BrokerReader(app).read,
            cache_seconds=settings.metrics.broker_cache_seconds,
            timeout_seconds=settings.metrics.broker_timeout_seconds,
        )

    def collect(self) -> Snapshot:
        """Return a snapshot of all metrics."""
        started, now = time.perf_counter(), time.time()
        broker, age = self._broker.numbers()
        reading = self._reader.read()
        numbers = dict(reading.numbers)
        numbers.update(_one(catalogue.DROPPED_SERIES, 0))
        numbers.update(_nodes(reading, now))
        numbers.update(_of(broker, age))
        numbers.update(self._host(numbers))
        numbers.update(_one(catalogue.FILES, reading.read, "read"))
        numbers.update(_one(catalogue.FILES, reading.unreadable, "unreadable"))
        numbers.update(_one(catalogue.SCRAPE_SECONDS, time.perf_counter() - started))
        return Snapshot(now, reading, broker, age, numbers)

    def registry(self) -> CollectorRegistry:
        """Return a registry with a snapshot of all metrics, and the project's own."""
        return registry_of(self.collect().numbers, self._custom.families())

    def close(self) -> None:
        """Stop the broker cache and close the spool."""
        self._broker.close()
        self._spool.close()

    def _host(self, numbers: Numbers) -> Iterator[tuple[Series, list[float]]]:
        try:
            yield from _one(catalogue.SPOOLED, self._spool.status().waiting)
        except SpoolError as error:
            logger.warning("%s", error)
        labels = (self._version, celery.__version__, platform.python_version())
        yield from _one(catalogue.BUILD_INFO, 1, *labels)
        for fleet in wanted_fleets(self._app.settings, (), self._scaled()):
            yield from _one(catalogue.NODES_WANTED, len(fleet.nodes), fleet.queue)
            yield from _one(catalogue.NODES_UP, _up(numbers, fleet.queue), fleet.queue)

    def _scaled(self) -> Mapping[str, int]:
        try:
            return Overrides.read(FleetState.of(self._app).run).scaled
        except FleetError as error:
            logger.warning("%s", error)
            return {}


def _one(metric: Metric, value: float, *labels: str) -> Iterator[tuple[Series, list[float]]]:
    yield Series(metric, labels), [float(value)]


def _up(numbers: Numbers, queue: str) -> int:
    """Return how many nodes that consume a queue are up."""
    return sum(
        bool(values[0])
        for series, values in numbers.items()
        if series.metric is catalogue.WORKER_UP and queue in series.labels[0].split(",")
    )


def _nodes(reading: MetricTotals, now: float) -> Iterator[tuple[Series, list[float]]]:
    """Yield the nodes' gauges, with timestamps converted to ages and to up or down."""
    for series, (value,) in reading.live.items():
        if series.metric is catalogue.WORKER_UP:
            yield series, [float(now - value < SILENT_SECONDS)]
        elif series.metric is catalogue.LAST_CONSUMED_AGE:
            yield series, [max(0.0, now - value)]
        else:
            yield series, [value]


def _of(broker: BrokerNumbers, age: float) -> Iterator[tuple[Series, list[float]]]:
    yield from _one(catalogue.BROKER_UP, broker.is_up)
    yield from _one(catalogue.MANAGEMENT_UP, broker.has_management)
    yield from _one(catalogue.READ_SECONDS, broker.seconds)
    yield from _one(catalogue.READ_AGE, age)
    if broker.parked is not None:
        yield from _one(catalogue.PARKED, broker.parked)
    if broker.backlog is not None:
        for due, count in broker.backlog.buckets().items():
            yield from _one(catalogue.SCHEDULED, count, due)
        yield from _one(catalogue.HELD_UP, broker.backlog.held_up or 0)
    for name, queue in broker.queues.items():
        known = {
            catalogue.READY: queue.ready,
            catalogue.CONSUMERS: queue.consumers,
            catalogue.DEAD: queue.dead,
            catalogue.UNACKNOWLEDGED: queue.unacknowledged,
            catalogue.OLDEST_WAIT: queue.oldest_wait,
            catalogue.PAUSED: None if broker.paused is None else name in broker.paused,
        }
        for metric, value in known.items():
            if value is not None:
                yield from _one(metric, value, name)
        for priority, count in queue.by_priority.items():
            yield from _one(catalogue.BY_PRIORITY, count, name, str(priority))
