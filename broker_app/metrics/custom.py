"""Custom metrics: a project's own `prometheus_client` metrics, copied to a file by each process that updates them.

Once a second a thread adds what the counters gained. The library's multi-process mode would lose no second when a
process is killed, but it has to be chosen before the library is imported, and keeps files for every process id.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from broker_app.metrics.storage import Chunk, MetricFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client import Metric as Family

    from broker_app.metrics.storage import Cells

    SampleKey = tuple[str, str, tuple[tuple[str, str], ...]]
    """Names of the family and the sample, and the labels."""

EVERY_SECONDS = 1.0
MAX_SHARE = 0.01
"""Longest share of the time that a process spends on the copies; with many series they are made less often."""

GAUGE_NUMBERS = 3
"""Numbers of a gauge: value, time of its last change in seconds since the epoch, and process id; 0 if absent."""

_STEM = "custom"
_TYPES = {"counter", "gauge", "histogram", "summary"}

logger = logging.getLogger(__name__)


class FamilyEntry(NamedTuple):
    """Entry of a file that describes a family; its number is unused."""

    name: str
    type: str
    help: str
    unit: str
    mode: str


class SampleEntry(NamedTuple):
    """Entry of a file with the value of a sample; a bucket has its own count, without those of lower buckets."""

    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]


class CustomMetrics:
    """Copies this process's metrics of the default registry to a file. Never raises.

    Custom collectors, and the library's own for the process, Python and its garbage collector, are left out. A
    forked child copies nothing until it is started; then it copies what it counted itself.

    Args:
        folder: Folder of the files.
    """

    _lock: threading.RLock
    _end: threading.Event | None
    _file: MetricFile | None
    _cells: dict[SampleKey, Cells]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copied: dict[SampleKey, float] = {}
        self._has_warned = False
        self._is_prepared = False
        self._begin()

    def prepare(self) -> None:
        """Copy before each fork, so that the child knows what its parent had counted, and on exit."""
        if not self._is_prepared:
            self._is_prepared = True
            _watch_forks(self)
            atexit.register(self.stop)

    def start(self) -> None:
        """Copy now, and once a second from now on; does nothing if it runs already."""
        if self._end is not None:
            return
        with self._lock:
            if self._end is not None:
                return
            self.prepare()
            self._end = threading.Event()
            threading.Thread(target=self._run, args=(self._end,), name="custom-metrics", daemon=True).start()

    def stop(self) -> None:
        """Copy a last time, and end the thread."""
        with self._lock:
            if self._end is not None:
                self._end.set()
                self._end = None
                self.copy()

    def copy(self) -> None:
        """Copy the current values."""
        if "prometheus_client" not in sys.modules:
            return
        with self._lock:
            try:
                self._copy()
            except Exception as error:  # noqa: BLE001 - a metric must not affect a task
                self._warn(error)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._end = None
        self._file = None
        self._cells = {}

    def _after_fork(self) -> None:
        file = self._file
        self._begin()
        if file is not None:
            file.forget()

    def _run(self, end: threading.Event) -> None:
        pause = 0.0
        while not end.wait(pause):
            started = time.perf_counter()
            self.copy()
            pause = max(EVERY_SECONDS, (time.perf_counter() - started) / MAX_SHARE)

    def _copy(self) -> None:
        seen: set[SampleKey] = set()
        for family, mode in _families(self._warn):
            self._copy_family(family, mode, seen)
        for key in self._copied.keys() - seen:  # the project removed it
            del self._copied[key]
            cells = self._cells.pop(key, None)
            if cells is not None and key[0] == key[1]:  # a gauge
                cells[0][cells[1] + 2] = 0.0
        if self._file is not None:
            self._file.restore()

    def _copy_family(self, family: Family, mode: str, seen: set[SampleKey]) -> None:
        for name, labels, value in _samples(family):
            key = (family.name, name, tuple(labels.items()))
            seen.add(key)
            before = self._copied.get(key)
            if value == before:
                continue
            chunk, index = self._cells.get(key) or self._find(key, family, mode)
            if family.type == "gauge":
                self._set(chunk, index, value, is_kept=before is None and not value and _outlives(mode))
            else:
                gained = value - before if before is not None and value > before else value  # less: it was reset
                chunk[index] = chunk.numbers[index] + gained
            self._copied[key] = value

    def _set(self, chunk: Chunk, index: int, value: float, *, is_kept: bool) -> None:
        """Set a gauge, unless it has its initial value and that of an earlier process is kept."""
        if not (is_kept and chunk.numbers[index + 2]):
            chunk.numbers[index], chunk.numbers[index + 1] = value, time.time()
            chunk.numbers[index + 2] = os.getpid()
            chunk.write(index, index + GAUGE_NUMBERS)

    def _find(self, key: SampleKey, family: Family, mode: str) -> Cells:
        """Return the cells of a sample; in memory only if the file has no room."""
        if self._file is None:
            self._file = _take_file(self._folder)
        count = GAUGE_NUMBERS if family.type == "gauge" else 1
        try:
            entry = FamilyEntry(family.name, family.type, family.documentation, family.unit, mode)
            self._file.cells(json.dumps(entry).encode(), 1)
            cells = self._file.cells(json.dumps(key).encode(), count)
        except OSError as error:
            self._warn(error)
            cells = Chunk(8 * count), 0
        self._cells[key] = cells
        return cells

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("the project's own metrics of this process are incomplete: %r", error)


@lru_cache(maxsize=100_000)
def parse_key(key: bytes) -> FamilyEntry | SampleEntry:
    """Return the key of an entry.

    Raises:
        ValueError: It is neither.
    """
    fields = json.loads(key)
    if len(fields) == len(FamilyEntry._fields):
        return FamilyEntry(*map(_valid, fields))
    family, sample, labels = fields
    return SampleEntry(
        _valid(family), _valid(sample), tuple((_valid(name), _valid(value)) for name, value in labels)
    )


def _valid(text: object) -> str:
    """Return text as valid UTF-8, which a label need not be."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _outlives(mode: str) -> bool:
    """Return whether a gauge keeps the value of a process that ended; with ``all``, files would have no bound."""
    return mode in {"max", "min", "sum", "mostrecent"}


def _families(warn: Callable[[Exception], None]) -> Iterator[tuple[Family, str]]:
    """Yield the families of the default registry, and each gauge's multi-process mode."""
    from prometheus_client import REGISTRY  # noqa: PLC0415 - only if the project has imported it
    from prometheus_client.metrics import MetricWrapperBase  # noqa: PLC0415
    from prometheus_client.values import MutexValue, ValueClass  # noqa: PLC0415

    if ValueClass is not MutexValue:
        return  # PROMETHEUS_MULTIPROC_DIR: the library's own files have the values
    for collector in tuple(REGISTRY._collector_to_names):  # noqa: SLF001 - `collect` would run custom collectors
        if isinstance(collector, MetricWrapperBase):
            try:
                families = collector.collect()
            except Exception as error:  # noqa: BLE001 - `Gauge.set_function` runs the project's code
                warn(error)
                continue
            for family in families:
                if family.type in _TYPES:
                    yield family, getattr(collector, "_multiprocess_mode", "")


def _samples(family: Family) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of the samples that can be summed over processes."""
    below = 0.0
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix == "_created" or (suffix == "_count" and family.type == "histogram"):
            continue
        value = float(sample.value)
        if suffix == "_bucket":
            value -= below
            below = 0.0 if sample.labels["le"] == "+Inf" else float(sample.value)
        yield sample.name, sample.labels, value


def _take_file(folder: Path) -> MetricFile:
    """Continue the file of a process that ended, without those of its gauges that end with it."""
    file = MetricFile.take(folder, _STEM)
    known = [(parse_key(key), entry) for key, entry in file.entries.items()]
    modes = {found.name: found.mode for found, _ in known if isinstance(found, FamilyEntry)}
    for found, entry in known:
        if (
            entry.count == GAUGE_NUMBERS
            and isinstance(found, SampleEntry)
            and not _outlives(modes.get(found.family, ""))
        ):
            chunk, index = file.cells(entry.key, entry.count)
            chunk[index + 2] = 0.0
    return file


_watching: WeakSet[CustomMetrics] = WeakSet()
_held: list[CustomMetrics] = []


def _watch_forks(metrics: CustomMetrics) -> None:
    if not getattr(_watch_forks, "is_set", False):
        _watch_forks.is_set = True  # type: ignore[attr-defined]
        os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
    _watching.add(metrics)


def _before_fork() -> None:
    for metrics in list(_watching):
        metrics._lock.acquire()  # noqa: SLF001 - same module
        _held.append(metrics)
        metrics.copy()


def _after_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()  # noqa: SLF001


def _after_in_child() -> None:
    while _held:
        _held.pop()._after_fork()  # noqa: SLF001
