"""Custom metrics of a host: the sum of what its processes copied to files, as `prometheus_client` families."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector

from broker_app.metrics import file_format, storage
from broker_app.metrics.custom import GAUGE_NUMBERS, FamilyEntry, parse_key
from broker_app.monitoring.exposition import bound_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Labels = tuple[tuple[str, str], ...]

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

logger = logging.getLogger(__name__)


class _Gauge(NamedTuple):
    value: float
    changed_at: float
    pid: int
    is_alive: bool


class _Totals:
    """Sums of counters, and gauges of each process, by family, sample and labels."""

    def __init__(self) -> None:
        self.families: dict[str, FamilyEntry] = {}
        self.sums: dict[str, dict[tuple[str, Labels], float]] = defaultdict(lambda: defaultdict(float))
        self.gauges: dict[str, dict[Labels, list[_Gauge]]] = defaultdict(lambda: defaultdict(list))

    def add(self, data: bytes, *, is_alive: bool) -> None:
        """Add the entries of a file."""
        for entry in file_format.parse(data):
            key, numbers = parse_key(entry.key), file_format.numbers(data, entry)
            if isinstance(key, FamilyEntry):
                self.families[key.name] = key
            elif entry.count == GAUGE_NUMBERS and numbers[2]:
                gauge = _Gauge(numbers[0], numbers[1], int(numbers[2]), is_alive)
                self.gauges[key.family][key.labels].append(gauge)
            elif entry.count == 1:
                self.sums[key.family][key.sample, key.labels] += numbers[0]


class CustomMetricsReader:
    """Reads and sums the files of custom metrics in a folder.

    Args:
        folder: Folder of the files; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warned: set[Path] = set()

    def families(self) -> Iterator[Family]:
        """Yield the families, and those of the folder ``PROMETHEUS_MULTIPROC_DIR`` if it is set.

        An unreadable file is logged once and skipped.
        """
        totals = _Totals()
        for path, data, is_alive in sorted(self._files(), key=itemgetter(2)):  # the last description wins
            try:
                totals.add(data, is_alive=is_alive)
            except (ValueError, TypeError) as error:
                self._warn(path, error)
        for name in sorted(totals.families):
            yield _family(totals.families[name], totals)
        if Path(os.environ.get(MULTIPROCESS_VARIABLE) or os.devnull).is_dir():
            yield from MultiProcessCollector(None).collect()

    def _files(self) -> Iterator[tuple[Path, bytes, bool]]:
        """Yield path, content, and whether its process is alive."""
        for path in sorted(self._folder.glob(f"*{storage.SUFFIX}")):
            try:
                with path.open("rb") as file:
                    yield path, file.read(), storage.is_locked(file.fileno())
            except OSError as error:
                self._warn(path, error)

    def _warn(self, path: Path, error: Exception) -> None:
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("%s: expected a file of custom metrics, got: %s; skipping it", path, error)


def _family(entry: FamilyEntry, totals: _Totals) -> Family:
    family = Family(entry.name, entry.help, entry.type, entry.unit)
    if entry.type == "gauge":
        for labels, gauges in sorted(totals.gauges[entry.name].items()):
            for more, value in _merged(gauges, entry.mode).items():
                family.add_sample(entry.name, dict(labels + more), value)
        return family
    sums = totals.sums[entry.name]
    if entry.type == "histogram":
        _add_histograms(family, sums)
        return family
    for (sample, labels), value in sorted(sums.items(), key=lambda item: (item[0][1], item[0][0])):
        if sample.removeprefix(entry.name) in _SUFFIXES[entry.type]:
            family.add_sample(sample, dict(labels), value)
    return family


_SUFFIXES = {"counter": {"_total"}, "summary": {"_count", "_sum"}}
"""Suffixes of the samples of a type; OpenMetrics wants all samples with the same labels in a row."""


_MERGES: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max, "sum": sum}


def _merged(gauges: list[_Gauge], mode: str) -> dict[Labels, float]:
    """Return the values of a gauge by additional labels, as `prometheus_client` merges them in each mode."""
    if mode in {"all", "liveall"}:
        return {(("pid", str(gauge.pid)),): gauge.value for gauge in gauges if gauge.is_alive}
    counted = [gauge for gauge in gauges if gauge.is_alive or not mode.startswith("live")]
    if not counted:
        return {}
    if mode.endswith("mostrecent"):
        return {(): max(counted, key=attrgetter("changed_at")).value}
    merge = _MERGES[mode.removeprefix("live")]
    return {(): merge([gauge.value for gauge in counted])}


def _add_histograms(family: Family, sums: Mapping[tuple[str, Labels], float]) -> None:
    """Add cumulative buckets, count and sum of each histogram; the bounds are those of all processes."""
    histograms: dict[Labels, dict[float, float]] = defaultdict(dict)
    for (sample, labels), value in sums.items():
        if sample == f"{family.name}_bucket":
            rest = tuple(label for label in labels if label[0] != "le")
            histograms[rest][float(dict(labels)["le"])] = value
    for labels, buckets in sorted(histograms.items()):
        total = 0.0
        for bound, value in sorted(buckets.items()):
            total += value
            family.add_sample(f"{family.name}_bucket", dict(labels) | {"le": bound_label(bound)}, total)
        family.add_sample(f"{family.name}_count", dict(labels), total)
        if (sum_key := (f"{family.name}_sum", labels)) in sums:
            family.add_sample(sum_key[0], dict(labels), sums[sum_key])
