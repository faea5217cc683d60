"""Measurements of one pool with one slot count, and their statistical error."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t, two-sided 95 %, for 1, 2, 3 … degrees of freedom."""

_MANY_T_95 = 2.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    @classmethod
    def middle(cls, values: Sequence[float]) -> Interval:
        """Return the middle 95 % of at least one value."""
        ordered = sorted(values)
        cut = int(len(ordered) * 0.025)
        return cls(ordered[cut], ordered[-1 - cut])


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of many tasks, in seconds.

    Attributes:
        mean: The mean.
        p50: The median.
        p95: The 95th percentile.
        count: Number of tasks.
    """

    mean: float
    p50: float
    p95: float
    count: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Durations:
        """Return the statistics of at least one duration.

        Raises:
            ValueError: ``seconds`` is empty.
        """
        ordered = sorted(seconds)
        if not ordered:
            raise ValueError("times need at least one duration, got none")
        return cls(statistics.fmean(ordered), _rank(ordered, 50), _rank(ordered, 95), len(ordered))


@dataclass(frozen=True, slots=True)
class Usage:
    """Resource usage of one worker and its host.

    Attributes:
        cpu_cores: Cores used by all its processes.
        main_cpu_cores: Cores used by its main process.
        host_busy_cores: Busy cores of the host, including other programs.
        cores: Cores that the worker may use.
        memory_bytes: Memory of all its processes; shared pages count once.
        processes: Number of processes.
        threads: Number of threads of all its processes.
        descriptors: Open files and sockets of all its processes.
    """

    cpu_cores: float
    main_cpu_cores: float
    host_busy_cores: float
    cores: int
    memory_bytes: int
    processes: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurement of one pool with one slot count.

    Attributes:
        pool: Celery's ``-P``.
        slots: Celery's ``-c``.
        throughputs: Tasks per second in each round, under a constant backlog.
        run: Run times of the tasks in these rounds.
        wait: Times from publishing to start, with random arrivals at `LOAD_SHARE` of the throughput; None if not
            measured.
        latency: Times from publishing to completion, measured as ``wait``.
        usage: Resource usage of the worker in these rounds.
    """

    pool: str
    slots: int
    throughputs: tuple[float, ...]
    run: Durations
    wait: Durations | None
    latency: Durations | None
    usage: Usage

    @property
    def throughput(self) -> float:
        """Mean throughput of the rounds."""
        return statistics.fmean(self.throughputs)

    @property
    def error(self) -> float:
        """Half the width of the mean's 95 % interval, relative to the mean: 0.05 means ±5 %."""
        return relative_error(self.throughputs)

    @property
    def busy_share(self) -> float:
        """Mean share of busy slots, from throughput * run time (Little's law)."""
        return min(1.0, self.throughput * self.run.mean / self.slots)


def relative_error(values: Sequence[float]) -> float:
    """Return half the width of the mean's 95 % interval, relative to the mean; infinite for fewer than two values.

    Student's t * standard deviation / sqrt(count) / mean.
    """
    freedom = len(values) - 1
    mean = statistics.fmean(values) if values else 0.0
    if freedom < 1 or mean <= 0:
        return math.inf
    t = _T_95[freedom - 1] if freedom <= len(_T_95) else _MANY_T_95
    return t * statistics.stdev(values) / math.sqrt(len(values)) / mean


def _rank(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]
