"""Recorder: the metric values of one process, safe for threads, greenlets and forks."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from broker_app.metrics.catalogue import DROPPED_SERIES, METRICS, Metric, MetricType
from broker_app.metrics.storage import Chunk, MetricFile
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from broker_app.metrics.storage import Cells

OTHER = "other"
"""Label for tasks beyond the limit, and for queues that the settings do not declare."""

NODE_KEY = "node"
"""Key of the entry that names the node in a worker's file."""

MAX_LABEL_CHARACTERS = 200
_CHECK_SECONDS = 1.0
_HISTOGRAM_NUMBERS = len(BOUNDS_SECONDS) + 2  # a count for each bucket and +Inf, and the sum

logger = logging.getLogger(__name__)


class Recorder:
    """Metric values of this process. Never raises: a metrics failure must not affect a task.

    Each change is written to the file at once, with a system call, unless `defer` was called. After a fork, the
    child records to its own file.

    Args:
        folder: Folder of the metrics files.
        stem: File name stem for this kind of process.
        node: Name of the worker node; empty for a producer.
        max_tasks: Maximum number of distinct task labels; further tasks are labelled `OTHER`.
    """

    def __init__(self, folder: Path, stem: str, node: str = "", max_tasks: int = 200) -> None:
        self._folder = folder
        self._stem = stem
        self._node = node
        self._max_tasks = max_tasks
        self._begin()
        _watch_forks(self)

    def add(self, metric: Metric, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter.

        Args:
            metric: The counter.
            labels: Label values in order, without ``node``.
            amount: Increment.
        """
        with self._lock:
            chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
            chunk.numbers[index] += amount
            self._save(chunk, index, index + 1)

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge; see `add` for the arguments."""
        with self._lock:
            chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
            chunk.numbers[index] = value
            self._save(chunk, index, index + 1)

    def observe(self, metric: Metric, labels: tuple[str, ...], seconds: float) -> None:
        """Record a duration in a histogram; negative values, which clock skew can cause, count as 0."""
        self.observe_all(((metric, seconds),), labels)

    def observe_all(self, times: Iterable[tuple[Metric, float]], labels: tuple[str, ...]) -> None:
        """Record durations in several histograms with the same labels, like `observe`."""
        with self._lock:
            for metric, seconds in times:
                chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
                counted = seconds if seconds > 0 else 0.0
                bucket, total = index + bisect_left(BOUNDS_SECONDS, counted), index + _HISTOGRAM_NUMBERS - 1
                chunk.numbers[bucket] += 1
                chunk.numbers[total] += counted
                self._save(chunk, bucket, total + 1)

    def begin(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Create a series with zeros, since ``rate`` and ``increase`` miss the first step of a new series."""
        with self._lock:
            self._find(metric, labels)

    def defer(self) -> None:
        """Leave writing the file to `flush`, which the caller calls periodically and at the end."""
        self._is_deferring = True

    def flush(self, *, ends_deferring: bool = False) -> None:
        """Write what has changed since the last call; then, if asked, write each change at once again."""
        with self._lock:
            self._is_deferring = self._is_deferring and not ends_deferring
            for chunk in self._unwritten:
                chunk.write(0, len(chunk.numbers))
            self._unwritten.clear()
            if time.monotonic() >= self._check_at:
                self._check_file()

    def task(self, name: str) -> str:
        """Return the label of a task."""
        label = self._tasks.get(name) if isinstance(name, str) else clean(name)
        if label is None:
            with self._lock:
                self._file_or_none()  # task labels already in the file count too
                if len(self._tasks) >= self._max_tasks:
                    return OTHER
                label = self._tasks[name] = clean(name)
        return label

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._cells: dict[tuple[Metric, tuple[str, ...]], Cells] = {}
        self._tasks: dict[str, str] = {}
        self._file: MetricFile | None = None
        self._is_open = False
        self._is_deferring = False
        self._unwritten: set[Chunk] = set()
        self._has_warned = False
        self._dropped = 0
        self._check_at = 0.0

    def _after_fork(self) -> None:
        file = self._file
        self._begin()
        if file is not None:
            file.forget()

    def _save(self, chunk: Chunk, first: int, end: int) -> None:
        if self._is_deferring:
            self._unwritten.add(chunk)
            return
        chunk.write(first, end)
        if time.monotonic() >= self._check_at:
            self._check_file()

    def _check_file(self) -> None:
        """Restore the file if it was truncated or removed."""
        self._check_at = time.monotonic() + _CHECK_SECONDS
        try:
            if self._file is not None and self._file.restore():
                logger.warning("%s was truncated or removed; restored it from memory", self._file.path)
        except OSError as error:
            self._warn(error)

    def _find(self, metric: Metric, labels: tuple[str, ...]) -> Cells:
        """Return the cells of a series; in memory only if the file has no room."""
        count = _HISTOGRAM_NUMBERS if metric.kind is MetricType.HISTOGRAM else 1
        file, cells = self._file_or_none(), None
        if file is not None:
            try:
                cells = file.cells(series_key(metric, labels), count)
            except OSError as error:
                self._warn(error)
        if cells is None:
            self._count_dropped()
            cells = Chunk(8 * count), 0
        self._cells[metric, labels] = cells
        return cells

    def _count_dropped(self) -> None:
        self._dropped += 1
        if self._file is not None:
            chunk, index = self._file.cells(_DROPPED_KEY, 1)
            chunk[index] = self._dropped

    def _file_or_none(self) -> MetricFile | None:
        if not self._is_open:
            self._is_open = True
            try:
                self._file = self._open()
            except OSError as error:
                self._warn(error)
        return self._file

    def _open(self) -> MetricFile:
        file = MetricFile.take(self._folder, self._stem)
        if self._node:
            file.cells(json.dumps([NODE_KEY, [self._node]]).encode(), 1)
        file.cells(_DROPPED_KEY, 1)  # reserve it while there is room
        for entry in file.entries.values():
            name, labels, *_ = json.loads(entry.key)
            metric = METRICS.get(name)
            if metric is not None and "task" in metric.labels:
                task = labels[metric.labels.index("task")]
                self._tasks.setdefault(task, task)
            if metric is not None and metric.kind is MetricType.GAUGE:
                chunk, index = file.cells(entry.key, entry.count)
                chunk[index] = 0.0  # left by the previous process
        return file

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("metrics of this process are incomplete: %s", error)


def series_key(metric: Metric, labels: Sequence[str]) -> bytes:
    """Return the key of a series in a file: metric, labels, and the bounds of a histogram."""
    key: list[Any] = [metric.name, list(labels)]
    if metric.kind is MetricType.HISTOGRAM:
        key.append(list(BOUNDS_SECONDS))
    return json.dumps(key, separators=(",", ":")).encode()


_DROPPED_KEY = series_key(DROPPED_SERIES, ())


def clean(text: object) -> str:
    """Return untrusted text as a label value: truncated, valid UTF-8, without control characters."""
    text = str(text)[:MAX_LABEL_CHARACTERS].encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


_recorders: WeakSet[Recorder] = WeakSet()


def _watch_forks(recorder: Recorder) -> None:
    if not _recorders and not getattr(_watch_forks, "is_set", False):
        _watch_forks.is_set = True  # type: ignore[attr-defined]
        os.register_at_fork(after_in_child=_after_fork)
    _recorders.add(recorder)


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._after_fork()  # noqa: SLF001 - same module
