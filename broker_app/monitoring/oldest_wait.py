"""Wait of the message at the head of a queue, estimated from message counts.

RabbitMQ does not report this for quorum queues, and getting the message would take it off the queue. Instead,
each sample of the counts records how many messages had entered the queue by that time. The head is the oldest
ready message: its position is the number of messages that have entered so far minus the number that are ready,
and it arrived when the entry count passed that position. The error is at most one sampling interval for a FIFO
queue; a priority queue is treated as FIFO.
"""

from __future__ import annotations

from collections import deque

MAX_SAMPLES = 20_000
"""A little over one day of samples, five seconds apart; the oldest are dropped first."""


class QueueEntries:
    """Samples of how many messages have entered one queue."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)  # (time, entry count)

    def oldest_wait(self, now: float, ready: int, left: int) -> float:
        """Add a sample and return how long the head has waited, in seconds; 0 for an empty queue.

        For a message that arrived before the first sample this is a lower bound: the time since that sample.

        Args:
            now: Seconds, on any monotonic clock.
            ready: Messages ready for delivery.
            left: Messages acknowledged or unacknowledged, as a running total from any start.
        """
        entered = float(ready + left)
        if self._samples and entered < self._samples[-1][1]:
            self._samples.clear()  # the broker restarted its counters, or the queue was purged
        self._samples.append((now, entered))
        head = entered - ready
        while len(self._samples) > 1 and self._samples[1][1] <= head:
            self._samples.popleft()
        if not ready:
            return 0.0
        (before, had), (after, has) = self._samples[0], self._samples[min(1, len(self._samples) - 1)]
        if had > head or has <= had:
            return now - before
        return now - (before + (after - before) * (head - had) / (has - had))
