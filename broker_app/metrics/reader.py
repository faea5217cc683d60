"""What the processes of a host have counted, read from their files and summed."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.metrics import storage
from broker_app.metrics.catalogue import METRICS, WORKER_UP, Metric, MetricType
from broker_app.metrics.recorder import NODE_KEY

if TYPE_CHECKING:
    from pathlib import Path

FORGET_SECONDS = 86_400.0
"""A file whose process has ended this long ago is removed; until then a node that comes back counts on in it."""

_TOUCH_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """What an entry's key says.

    Attributes:
        metric: Which.
        labels: The values of its labels, ``node`` included.
        bounds: Of a histogram.
    """

    metric: Metric
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()


Numbers = dict[Series, list[float]]


@dataclass(slots=True)
class MetricTotals:
    """All files, summed.

    Attributes:
        numbers: By series; a histogram's are the counts of its buckets, that of +Inf, and the sum.
        live: Gauges of the nodes whose process lives.
        read: Files that were read.
        unreadable: Files that could not be.
        problem: Why the folder cannot be read; empty if it can, or is not there yet.
    """

    numbers: Numbers = field(default_factory=dict)
    live: Numbers = field(default_factory=dict)
    read: int = 0
    unreadable: int = 0
    problem: str = ""


@dataclass(slots=True)
class _CachedFile:
    """What is known of a file that was read before: keys stay where they are."""

    inode: int
    end: int = storage.HEADER.size
    entries: list[tuple[Series, storage.Entry]] = field(default_factory=list)
    node: str = ""


class MetricsReader:
    """Reads the files of a folder, again and again. For several threads at once: one reads, the others wait.

    Args:
        folder: It need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, _CachedFile] = {}
        self._warned: set[Path] = set()
        self._lock = threading.Lock()  # what is known of a file must not be learnt twice

    def read(self) -> MetricTotals:
        """Return what is counted now. A file that cannot be read is counted, told once, and passed over."""
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
                self._warn(path, f"{path}: expected a file of metrics, got: {error}; it is passed over")
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
        """Tell a fault once."""
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("%s", words)

    def _read_file(self, path: Path, reading: MetricTotals) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            is_alive = storage.is_locked(descriptor)
            if _keep(path, status.st_mtime, is_alive=is_alive):
                data = os.pread(descriptor, status.st_size + storage.CHUNK_BYTES, 0)  # it may grow just now
                _sum(data, self._entries(path, status.st_ino, data), reading, is_alive=is_alive)
        finally:
            os.close(descriptor)

    def _entries(self, path: Path, inode: int, data: bytes) -> list[tuple[Series, storage.Entry]]:
        """Return the entries of a file; only those that are new to us are looked at."""
        known = self._known.get(path)
        end = storage.used_bytes(data) if data else storage.HEADER.size
        if known is None or known.inode != inode or known.end > end:
            known = self._known[path] = _CachedFile(inode)
        if end > known.end:
            for entry in storage.parse(data, known.end):
                self._learn(known, entry)
            known.end = end
        return known.entries

    def _learn(self, known: _CachedFile, entry: storage.Entry) -> None:
        name, labels, *bounds = json.loads(entry.key)
        if name == NODE_KEY:
            known.node = str(labels[0])
        metric = METRICS.get(name)
        if metric is None:
            return  # of another version of ours
        values = tuple(map(str, labels)) + ((known.node,) if "node" in metric.labels else ())
        limits = tuple(float(bound) for bound in bounds[0]) if bounds else ()
        size = len(limits) + 2 if metric.kind is MetricType.HISTOGRAM else 1
        if len(values) == len(metric.labels) and size == entry.count:
            known.entries.append((Series(metric, values, limits), entry))


def _sum(
    data: bytes, entries: list[tuple[Series, storage.Entry]], reading: MetricTotals, *, is_alive: bool
) -> None:
    for series, entry in entries:
        numbers = storage.numbers(data, entry)
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


def _keep(path: Path, modified: float, *, is_alive: bool) -> bool:
    """Return whether a file counts; an old one of a process that has ended is removed.

    The time of a file that is mapped need not show when it was written last, so it is set while its process lives.
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
