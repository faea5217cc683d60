"""How long a task that failed waits before it is tried again: exponential back-off with full jitter.

The wait before the retry number n (counted from 1) is drawn up to ``first_seconds * factor ** (n - 1)``, at most
``longest_seconds``. With the defaults that is 1, 2, 4, … 512, 600, 600 s. Full jitter: tasks that failed
together do not come back together (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ((10.0, 0.1), (60.0, 1.0), (math.inf, 10.0))
"""Below so many seconds a wait is a multiple of so many: random waits to the tenth would need a lane for each."""


SHORTEST_SECONDS = 0.5
"""No wait that is drawn is shorter, unless its bound is: Celery stores RETRY after it has published the retry, and
one that ends before that would have its own result overwritten, which then says RETRY for ever."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often a task is tried again, and after which waits.

    Attributes:
        max_retries: Retries after the first run; 0 retries nothing.
        first_seconds: Bound of the first wait.
        factor: What each further bound is longer by; 1 keeps it.
        longest_seconds: No bound is longer.
        has_jitter: Whether a wait is drawn from `SHORTEST_SECONDS` to its bound; otherwise it is the bound.
    """

    max_retries: int = 0
    first_seconds: float = 1.0
    factor: float = 2.0
    longest_seconds: float = 600.0
    has_jitter: bool = True

    def bound(self, retries: int) -> float:
        """Return the longest wait in seconds after so many retries that were made before (0 at first)."""
        try:
            return min(self.longest_seconds, self.first_seconds * self.factor**retries)
        except OverflowError:
            return self.longest_seconds

    def wait(self, retries: int, draw: Callable[[float, float], float] = random.uniform) -> float:
        """Return how long to wait, in seconds, as `STEPS` has it.

        Args:
            retries: How many were made before, 0 at first.
            draw: Returns a number between two.
        """
        bound = self.bound(retries)
        seconds = max(min(SHORTEST_SECONDS, bound), draw(0.0, bound)) if self.has_jitter else bound
        step = next(step for below, step in STEPS if seconds < below)
        return round(round(seconds / step) * step, 1)
