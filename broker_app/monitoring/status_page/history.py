"""History of the last 15 minutes: samples in memory, one for each column of a chart."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.metrics.catalogue import FINISHED, PUBLISHED, WAITED_SECONDS, TaskOutcome
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker_app.monitoring.collector import Snapshot

STEP_SECONDS = 15.0
STEPS = 60
"""15 minutes in steps of `STEP_SECONDS`."""

FAILURES = frozenset({TaskOutcome.FAILED, TaskOutcome.DEAD, TaskOutcome.TIMED_OUT})

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class QueueCounts:
    """Counts of one queue at one moment; counters start at an arbitrary value.

    Attributes:
        published: Tasks published by the producers of this host.
        finished: Messages finished by the workers of this host, with any outcome.
        failed: Finished messages that failed and are not retried.
        waited: Started tasks by wait: the buckets of `BOUNDS_SECONDS`, and +Inf.
        ready: Messages ready for delivery; None if unknown.
        head: Wait of the message at the head, in seconds; None if unknown.
    """

    published: float = 0.0
    finished: float = 0.0
    failed: float = 0.0
    waited: list[float] = field(default_factory=lambda: [0.0] * (len(BOUNDS_SECONDS) + 1))
    ready: int | None = None
    head: float | None = None


@dataclass(frozen=True, slots=True)
class HistorySample:
    """All queues at one moment.

    Attributes:
        at: Seconds since the epoch.
        queues: Counts by queue name.
        read_at: When the broker was read; None if at ``at``.
    """

    at: float
    queues: Mapping[str, QueueCounts]
    read_at: float | None = None

    def since(self, before: HistorySample, queue: str) -> QueueCounts:
        """Return the increase between two samples; 0 for a counter that shrank because a file was removed."""
        now, then = self.queues.get(queue, QueueCounts()), before.queues.get(queue, QueueCounts())
        return QueueCounts(
            published=max(0.0, now.published - then.published),
            finished=max(0.0, now.finished - then.finished),
            failed=max(0.0, now.failed - then.failed),
            waited=[max(0.0, after - earlier) for after, earlier in zip(now.waited, then.waited, strict=True)],
            ready=now.ready,
            head=now.head,
        )


def sample(snapshot: Snapshot) -> HistorySample:
    """Return the sample of a snapshot."""
    queues: dict[str, QueueCounts] = defaultdict(QueueCounts)
    for series, values in snapshot.numbers.items():
        if series.metric is PUBLISHED:
            queues[series.labels[0]].published += values[0]
        elif series.metric is FINISHED:
            counts = queues[series.labels[0]]
            counts.finished += values[0]
            counts.failed += values[0] if series.labels[2] in FAILURES else 0.0
        elif series.metric is WAITED_SECONDS and series.bounds == BOUNDS_SECONDS:
            waited = queues[series.labels[0]].waited
            for index, count in enumerate(values[:-1]):
                waited[index] += count
    for name, queue in snapshot.broker.queues.items():
        queues[name].ready, queues[name].head = queue.ready, queue.oldest_wait
    return HistorySample(snapshot.at, dict(queues), snapshot.at - snapshot.broker_age)


class History:
    """The most recent samples. Thread-safe.

    Args:
        samples: Initial samples, oldest first.
    """

    def __init__(self, samples: Iterable[HistorySample] = ()) -> None:
        self._samples = deque(samples, maxlen=STEPS + 1)
        self._lock = threading.Lock()

    def add(self, one: HistorySample) -> None:
        """Append a sample, dropping the oldest if full."""
        with self._lock:
            self._samples.append(one)

    def samples(self) -> list[HistorySample]:
        """Return the samples, oldest first."""
        with self._lock:
            return list(self._samples)


class Sampler:
    """Context manager that fills a history from a background thread.

    Args:
        collect: Returns the current snapshot.
        history: The history to fill.
    """

    def __init__(self, collect: Callable[[], Snapshot], history: History) -> None:
        self._collect = collect
        self._history = history
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status-page", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._history.add(sample(self._collect()))
            except Exception:
                logger.exception("status page: cannot take a sample")
            if self._is_over.wait(STEP_SECONDS):
                return
