"""The last quarter of an hour, sampled in the server's memory: as many samples as there are columns in a chart."""

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
"""A quarter of an hour."""

FAILURES = frozenset({TaskOutcome.FAILED, TaskOutcome.DEAD, TaskOutcome.TIMED_OUT})

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class QueueCounts:
    """One queue at one moment; what only grows is counted since whenever.

    Attributes:
        published: Tasks that the producers of this host published.
        finished: Messages that ended in its workers, well or not.
        failed: Those of them that failed for good.
        waited: Tasks that started, by how long they had waited: the buckets of `BOUNDS_SECONDS`, and beyond.
        ready: Messages that wait; None if the broker did not tell.
        head: How long the first of them has waited, likewise.
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
        queues: By name.
        read_at: When the broker told what waits; None for ``at``.
    """

    at: float
    queues: Mapping[str, QueueCounts]
    read_at: float | None = None

    def since(self, before: HistorySample, queue: str) -> QueueCounts:
        """Return what was counted between two samples; a count that has shrunk, since a file went, as nothing."""
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
    """Return what of a snapshot is remembered."""
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
    """The last samples. For several threads at once.

    Args:
        samples: The first ones, in their order.
    """

    def __init__(self, samples: Iterable[HistorySample] = ()) -> None:
        self._samples = deque(samples, maxlen=STEPS + 1)
        self._lock = threading.Lock()

    def add(self, one: HistorySample) -> None:
        """Remember one more; the oldest is forgotten."""
        with self._lock:
            self._samples.append(one)

    def samples(self) -> list[HistorySample]:
        """Return them, the oldest first."""
        with self._lock:
            return list(self._samples)


class Sampler:
    """Adds to a history in a thread of its own, for the length of a block.

    Args:
        collect: Returns what there is to tell now.
        history: Where it goes.
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
                logger.exception("the status page has no sample of this moment")
            if self._is_over.wait(STEP_SECONDS):
                return
