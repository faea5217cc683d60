"""Reader of the metrics files: the sum over all processes of a host."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.metrics import file_format, storage
from broker_app.metrics.catalogue import METRICS, WORKER_UP, Metric, MetricType
from broker_app.metrics.recorder import NODE_KEY

if TYPE_CHECKING:
    from pathlib import Path

FORGET_SECONDS = 86_400.0
"""Age at which the file of an ended process is removed; a node restarted earlier continues its file."""

_TOUCH_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """A time series: the parsed key of an entry.

    Attributes:
        metric: The metric.
        labels: Label values, including ``node``.
        bounds: Bucket bounds of a histogram.
    """

    metric: Metric
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


Numbers = dict[Series, list[float]]


@dataclass(slots=True)
class MetricTotals:
    """The totals of all files.

    Attributes:
        numbers: Values by series; for a histogram the bucket counts, the +Inf count, and the sum.
        live: Gauges by series; those of ended processes are left out, except ``worker_up``, which is 0.
        read: Number of files read.
        unreadable: Number of files that could not be read.
        problem: Why the folder cannot be read; empty if it can, or does not exist yet.
    """

    numbers: Numbers = field(default_factory=dict)
    live: Numbers = field(default_factory=dict)
    read: int = 0
    unreadable: int = 0
    problem: str = ""


@dataclass(slots=True)
class _CachedFile:
    """Parsed entries of a file from earlier reads; entries never move within a file."""

    inode: int
    end: int = file_format.HEADER.size
    entries: list[tuple[Series, file_format.Entry]] = field(default_factory=list)
    node: str = ""


class MetricsReader:
    """Reads and sums the metrics files of a folder. Thread-safe: concurrent reads are serialized.

    Args:
        folder: Folder of the files; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, _CachedFile] = {}
        self._warned: set[Path] = set()
        self._lock = threading.Lock()  # entries must not be parsed twice

    def read(self) -> MetricTotals:
        """Return the current totals. An unreadable file is counted, logged once, and skipped."""
        with self._lock:
            return self._read()

    def _read(self) -> MetricTotals:
        reading = MetricTotals()
        paths = self._paths(reading)
        for path in paths:
            try:
                self._read_file(path, reading)
                reading.read += 1
            except FileNotFoundError:
                continue  # removed meanwhile
            except (OSError, ValueError) as error:
                reading.unreadable += 1
                self._warn(path, f"{path}: expected a metrics file, got: {error}; skipping it")
        for gone in self._known.keys() - set(paths):
            del self._known[gone]
        return reading

    def _paths(self, reading: MetricTotals) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == storage.SUFFIX)
        except FileNotFoundError:
            return []  # nothing was counted yet
        except OSError as error:
            reading.problem = f"{self._folder}: expected a folder that this user may read, got: {error.strerror}"
            self._warn(self._folder, reading.problem)
            return []

    def _warn(self, path: Path, words: str) -> None:
        """Log a problem with a path once."""
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("%s", words)

    def _read_file(self, path: Path, reading: MetricTotals) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            is_alive = storage.is_locked(descriptor)
            if _keep(path, status.st_mtime, is_alive=is_alive):
                data = os.pread(descriptor, status.st_size + storage.CHUNK_BYTES, 0)  # the file may be growing
                _sum(data, self._entries(path, status.st_ino, data), reading, is_alive=is_alive)
        finally:
            os.close(descriptor)

    def _entries(self, path: Path, inode: int, data: bytes) -> list[tuple[Series, file_format.Entry]]:
        """Return the entries of a file, parsing only those added since the last read."""
        known = self._known.get(path)
        end = file_format.used_bytes(data) if data else file_format.HEADER.size
        if known is None or known.inode != inode or known.end > end:
            known = self._known[path] = _CachedFile(inode)
        if end > known.end:
            for entry in file_format.parse(data, known.end):
                self._add_entry(known, entry)
            known.end = end
        return known.entries

    def _add_entry(self, known: _CachedFile, entry: file_format.Entry) -> None:
        name, labels, *bounds = json.loads(entry.key)
        if name == NODE_KEY:
            known.node = _valid(labels[0])
        metric = METRICS.get(name)
        if metric is None:
            return  # written by another version
        values = tuple(map(_valid, labels)) + ((known.node,) if "node" in metric.labels else ())
        limits = tuple(float(bound) for bound in bounds[0]) if bounds else ()
        size = len(limits) + 2 if metric.kind is MetricType.HISTOGRAM else 1
        if len(values) == len(metric.labels) and size == entry.count:
            known.entries.append((Series(metric, values, limits), entry))


def _sum(
    data: bytes, entries: list[tuple[Series, file_format.Entry]], reading: MetricTotals, *, is_alive: bool
) -> None:
    for series, entry in entries:
        numbers = file_format.numbers(data, entry)
        is_gauge = series.metric.kind is MetricType.GAUGE
        if is_gauge and series.metric is not WORKER_UP and not is_alive:
            continue
        target = reading.live if is_gauge else reading.numbers
        found = target.get(series)
        if found is None:
            target[series] = list(numbers) if is_alive or not is_gauge else [0.0]
        elif series.metric is WORKER_UP:
            found[0] = max(found[0], numbers[0] if is_alive else 0.0)
        else:
            for index, number in enumerate(numbers):
                found[index] += number


def _valid(label: object) -> str:
    """Return a label as valid UTF-8: JSON may hold lone surrogates, as may the name of a node."""
    return str(label).encode("utf-8", "backslashreplace").decode("utf-8")


def _keep(path: Path, modified: float, *, is_alive: bool) -> bool:
    """Return whether to include a file; remove it if its process ended long ago.

    While the process is alive, the modification time is refreshed even if nothing is written.
    """
    now = time.time()
    if is_alive:
        if now - modified > _TOUCH_SECONDS:
            os.utime(path)
        return True
    if now - modified < FORGET_SECONDS:
        return True
    descriptor = storage.lock(path)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)
    return False
