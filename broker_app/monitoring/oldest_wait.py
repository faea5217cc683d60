"""How long the message at the head of a queue has waited, from counts alone.

No broker tells it for quorum queues, and to look at the message would be to take it. So each look at the counts
is remembered: how many messages had entered the queue by then. The head is the oldest of those that are ready; it
came when as many had entered as entered until now, less those that are ready. Exact to the time between two
looks for a queue that is first in, first out; one with priorities is taken for such a queue.
"""

from __future__ import annotations

from collections import deque

MAX_LOOKS = 20_000
"""A day of looks, five seconds apart, and some; the oldest are forgotten first."""


class QueueEntries:
    """The entries into one queue, as seen."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=MAX_LOOKS)  # when, and how many had entered by then

    def oldest_wait(self, now: float, ready: int, left: int) -> float:
        """Return how long the head has waited, in seconds; 0 for an empty queue.

        What stood there at the first look has waited since then at least: that is what is returned for it.

        Args:
            now: Seconds, on any clock.
            ready: Messages that wait.
            left: Messages that were taken out for good, or are held, since whenever.
        """
        entered = float(ready + left)
        if self._looks and entered < self._looks[-1][1]:
            self._looks.clear()  # the broker counts anew, or the queue was purged
        self._looks.append((now, entered))
        head = entered - ready
        while len(self._looks) > 1 and self._looks[1][1] <= head:
            self._looks.popleft()
        if not ready:
            return 0.0
        (before, had), (after, has) = self._looks[0], self._looks[min(1, len(self._looks) - 1)]
        if had > head or has <= had:
            return now - before
        return now - (before + (after - before) * (head - had) / (has - had))
