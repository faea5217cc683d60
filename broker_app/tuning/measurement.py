"""What is measured of one pool with one number of slots, and how sure it is."""

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
    """A range that holds a value with 95 % confidence."""

    low: float
    high: float

    @classmethod
    def middle(cls, values: Sequence[float]) -> Interval:
        """Return the middle 95 % of some values, at least one."""
        ordered = sorted(values)
        cut = int(len(ordered) * 0.025)
        return cls(ordered[cut], ordered[-1 - cut])


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of many tasks, in seconds.

    Attributes:
        mean: Their mean.
        p50: Half of them took no longer.
        p95: 95 of 100 took no longer.
        count: How many there were.
    """

    mean: float
    p50: float
    p95: float
    count: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Durations:
        """Return the figures of at least one duration.

        Raises:
            ValueError: There is none.
        """
        ordered = sorted(seconds)
        if not ordered:
            raise ValueError("times need at least one duration, got none")
        return cls(statistics.fmean(ordered), _rank(ordered, 50), _rank(ordered, 95), len(ordered))


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of one worker used, and its host.

    Attributes:
        cpu_cores: Processor seconds of all its processes in each second.
        main_cpu_cores: Of its main process alone.
        host_busy_cores: Cores of the host at work, whoever it was.
        cores: Cores that the worker may use.
        memory_bytes: Of all its processes; what they share is counted once.
        processes: How many there were.
        threads: Of all its processes.
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
    """One pool with one number of slots, measured.

    Attributes:
        pool: Celery's ``-P``.
        slots: Celery's ``-c``.
        throughputs: Tasks a second in each round, while messages waited for a slot at any moment.
        run: How long the tasks of these rounds ran.
        wait: How long tasks waited, from publishing to their start, while they came at random at `LOAD_SHARE` of
            the throughput; None if that was not measured.
        latency: From publishing to the end, likewise.
        usage: What the worker used in these rounds.
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
        """The mean of the rounds."""
        return statistics.fmean(self.throughputs)

    @property
    def error(self) -> float:
        """Half the width of the mean's 95 % interval, as a share of it: 0.05 is plus or minus five per cent."""
        return relative_error(self.throughputs)

    @property
    def busy_share(self) -> float:
        """The share of the slots that were at work: their mean number is throughput * run time (Little's law)."""
        return min(1.0, self.throughput * self.run.mean / self.slots)


def relative_error(values: Sequence[float]) -> float:
    """Return half the width of the mean's 95 % interval as a share of it; infinite for fewer than two values.

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
