"""Trends: the wait and the growth of a queue, estimated from samples."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import StatisticsError, linear_regression
from typing import TYPE_CHECKING

from broker_app.monitoring.status_page.history import QueueCounts
from broker_app.monitoring.status_page.waits import bucket_of, quantile
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from broker_app.monitoring.status_page.history import HistorySample
    from broker_app.monitoring.status_page.queues import Objective

NOW_SECONDS = 60.0
"""Window of started tasks from which the current wait is computed."""

GROWTH_SECONDS = 75.0
"""Window over which the growth of a queue is computed: about five samples, few enough to be current."""

_LEAST_COUNTS = 3

HEAD_SECONDS = 5.0
"""Error of the wait at the head of a queue: the broker updates its counts, and is read, every five seconds."""

DEFAULT_PERCENT = 99.0
"""Percentile of the wait for queues without an objective."""


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """An estimated wait with its bounds, in seconds; ``high`` is None if unbounded."""

    about: float
    low: float
    high: float | None


def current_wait(samples: list[HistorySample], name: str, objective: Objective | None) -> WaitEstimate | None:
    """Return the wait of a queue now; None if unknown."""
    return estimated_wait(samples[-1].since(_window(samples, name), name), objective)


def estimated_wait(counts: QueueCounts, objective: Objective | None) -> WaitEstimate | None:
    """Return the wait of started tasks or of the message at the head, whichever is longer."""
    share = (objective.percent if objective else DEFAULT_PERCENT) / 100
    known = []
    if (bucket := bucket_of(BOUNDS_SECONDS, counts.waited, share)) is not None:
        about = quantile(BOUNDS_SECONDS, counts.waited, share)
        known.append(WaitEstimate(about or 0.0, *bucket))
    elif counts.ready == 0:
        return WaitEstimate(0.0, 0.0, 0.0)
    if counts.head and (counts.head > HEAD_SECONDS or not known):
        known.append(WaitEstimate(counts.head, max(0.0, counts.head - HEAD_SECONDS), counts.head + HEAD_SECONDS))
    if not known:
        return None
    highs = [wait.high for wait in known]
    high = None if None in highs else max(one for one in highs if one is not None)
    return WaitEstimate(max(wait.about for wait in known), max(wait.low for wait in known), high)


def _window(samples: list[HistorySample], name: str) -> HistorySample:
    """Return the sample at which the window for the current wait begins.

    If the queue is empty, earlier waits no longer matter: the window begins after the first sample in which it was
    empty, when the nodes had started the tasks that they had prefetched.
    """
    since, empty = sample_before(samples, NOW_SECONDS), []
    for one in reversed(samples):
        if one.queues.get(name, QueueCounts()).ready != 0:
            break
        empty.append(one)
    if not empty:
        return since
    emptied = empty[-2] if len(empty) > 1 else empty[-1]
    return max(since, emptied, key=lambda one: one.at)


def sample_before(samples: list[HistorySample], seconds: float) -> HistorySample:
    """Return the latest sample at least this old, or the oldest one."""
    at = samples[-1].at - seconds
    return next((one for one in reversed(samples) if one.at <= at), samples[0])


def growth_of(samples: list[HistorySample], name: str) -> tuple[float | None, float | None]:
    """Return the growth of a queue in messages per second, over the last minute and over the last three samples.

    Both are least-squares slopes; None with fewer than three samples.
    """
    last = samples[-1].at
    counts = [
        (one.read_at or one.at, one.queues.get(name, QueueCounts()).ready)
        for one in samples
        if one.at >= last - GROWTH_SECONDS
    ]
    known = [(at, ready) for at, ready in counts if ready is not None]
    if len(known) < _LEAST_COUNTS or counts[-1][1] is None:
        return None, None
    return _slope(known), _slope(known[-_LEAST_COUNTS:])


def _slope(points: list[tuple[float, int]]) -> float | None:
    try:
        return linear_regression(*zip(*points, strict=True)).slope
    except StatisticsError:  # all points have the same time: the broker was read once
        return None
