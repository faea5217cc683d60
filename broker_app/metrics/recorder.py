"""What a process counts with: numbers by metric and labels, right for threads, greenlets and forks."""

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
"""The label of what is beyond the bound, or is no queue of the settings."""

NODE_KEY = "node"
"""The key of a worker's file that says whose it is."""

MAX_LABEL_CHARACTERS = 200
_LOOK_SECONDS = 1.0
_HISTOGRAM_NUMBERS = len(BOUNDS_SECONDS) + 2  # a count for each bucket and for +Inf, and the sum

logger = logging.getLogger(__name__)


class Recorder:
    """The numbers of this process. Nothing here raises: work is never lost for its metrics.

    After a fork the child counts in a file of its own.

    Args:
        folder: Where the files are.
        stem: Of this kind of process.
        node: The worker's name; empty for a producer.
        max_tasks: Task names that are told apart; the others are `OTHER`.
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
            metric: Which.
            labels: The values of its labels, in their order, without that of ``node``.
            amount: How much.
        """
        with self._lock:
            chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
            chunk.numbers[index] += amount
            self._save(chunk, index, index + 1)

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge; arguments as those of `add`."""
        with self._lock:
            chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
            chunk.numbers[index] = value
            self._save(chunk, index, index + 1)

    def observe(self, metric: Metric, labels: tuple[str, ...], seconds: float) -> None:
        """Count a time in a histogram; less than 0, as two clocks may have it, is 0."""
        self.observe_all(((metric, seconds),), labels)

    def observe_all(self, times: Iterable[tuple[Metric, float]], labels: tuple[str, ...]) -> None:
        """Count times in histograms with the same labels, as `observe` does.

        Histograms that were begun together are neighbours in the file, and are written in one call.
        """
        with self._lock:
            written, first, end = None, 0, 0
            for metric, seconds in times:
                chunk, index = self._cells.get((metric, labels)) or self._find(metric, labels)
                bucket, after = index + bisect_left(BOUNDS_SECONDS, max(0.0, seconds)), index + _HISTOGRAM_NUMBERS
                chunk.numbers[bucket] += 1
                chunk.numbers[after - 1] += max(0.0, seconds)
                if chunk is not written:
                    if written is not None:
                        written.write(first, end)
                    written, first, end = chunk, bucket, after
                first, end = min(first, bucket), max(end, after)
            if written is not None:
                self._save(written, first, end)

    def begin(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Show a series with zeros, where Prometheus would else miss its first step."""
        with self._lock:
            self._find(metric, labels)

    def task(self, name: str) -> str:
        """Return the label of a task."""
        label = self._tasks.get(name) if isinstance(name, str) else clean(name)
        if label is None:
            with self._lock:
                self._file_or_none()  # what it knows from before counts too
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
        self._has_warned = False
        self._dropped = 0
        self._look_at = 0.0

    def _after_fork(self) -> None:
        file = self._file
        self._begin()
        if file is not None:
            file.forget()

    def _save(self, chunk: Chunk, first: int, end: int) -> None:
        chunk.write(first, end)
        if time.monotonic() >= self._look_at:
            self._look_after()

    def _look_after(self) -> None:
        """Restore the file if somebody has cut it short or removed it."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        try:
            if self._file is not None and self._file.restore():
                logger.warning("%s was cut short or removed by somebody; it is written anew", self._file.path)
        except OSError as error:
            self._warn(error)

    def _find(self, metric: Metric, labels: tuple[str, ...]) -> Cells:
        """Return where a series is, in this process's memory alone if there is no room for it in the file."""
        count = _HISTOGRAM_NUMBERS if metric.kind is MetricType.HISTOGRAM else 1
        file, cells = self._file_or_none(), None
        if file is not None:
            try:
                cells = file.cells(series_key(metric, labels), count)
            except OSError as error:
                self._warn(error)
        if cells is None:
            self._tell_dropped()
            cells = Chunk(8 * count), 0
        self._cells[metric, labels] = cells
        return cells

    def _tell_dropped(self) -> None:
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
        file.cells(_DROPPED_KEY, 1)  # while there is room
        for entry in file.entries.values():
            name, labels, *_ = json.loads(entry.key)
            metric = METRICS.get(name)
            if metric is not None and "task" in metric.labels:
                task = labels[metric.labels.index("task")]
                self._tasks.setdefault(task, task)
            if metric is not None and metric.kind is MetricType.GAUGE:
                chunk, index = file.cells(entry.key, entry.count)
                chunk[index] = 0.0  # of the process before
        return file

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("metrics of this process are not (all) shown: %s", error)


def series_key(metric: Metric, labels: Sequence[str]) -> bytes:
    """Return how a series is written in a file: its metric, its labels, and a histogram's bounds."""
    key: list[Any] = [metric.name, list(labels)]
    if metric.kind is MetricType.HISTOGRAM:
        key.append(list(BOUNDS_SECONDS))
    return json.dumps(key, separators=(",", ":")).encode()


_DROPPED_KEY = series_key(DROPPED_SERIES, ())


def clean(text: object) -> str:
    """Return a label's value of a text from elsewhere: bounded, in UTF-8, without control characters."""
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
        recorder._after_fork()  # noqa: SLF001 - its own module
