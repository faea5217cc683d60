"""Retry delays: exponential backoff with full jitter.

The wait before retry n (counted from 1) is a random time up to ``first_seconds * factor ** (n - 1)``, and at most
``longest_seconds``. With the defaults the bounds are 1, 2, 4, … 512, 600, 600 s. Full jitter keeps tasks that
failed together from retrying together (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ((10.0, 0.1), (60.0, 1.0), (math.inf, 10.0))
"""Pairs of (upper bound, step): a wait below the bound is rounded to a multiple of the step, both in seconds.

Without rounding, random waits would need a delay lane for every tenth of a second.
"""


SHORTEST_SECONDS = 0.5
"""Shortest random wait, unless its bound is shorter. Celery stores the state RETRY after publishing the retry: if
the retry finished first, RETRY would overwrite its result permanently."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A retry policy: the number of retries and the waits between them.

    Attributes:
        max_retries: Retries after the first run; 0 disables retries.
        first_seconds: Upper bound of the first wait.
        factor: Multiplies the bound after each retry; 1 keeps it constant.
        longest_seconds: Maximum of all bounds.
        has_jitter: Whether a wait is random, from `SHORTEST_SECONDS` to its bound; otherwise it equals the bound.
    """

    max_retries: int = 0
    first_seconds: float = 1.0
    factor: float = 2.0
    longest_seconds: float = 600.0
    has_jitter: bool = True

    def bound(self, retries: int) -> float:
        """Return the longest wait in seconds after ``retries`` earlier retries (0 before the first one)."""
        try:
            return min(self.longest_seconds, self.first_seconds * self.factor**retries)
        except OverflowError:
            return self.longest_seconds

    def wait(self, retries: int, draw: Callable[[float, float], float] = random.uniform) -> float:
        """Return the wait in seconds, rounded as in `STEPS`.

        Args:
            retries: Number of earlier retries, 0 before the first one.
            draw: Returns a random number between its two arguments.
        """
        bound = self.bound(retries)
        seconds = max(min(SHORTEST_SECONDS, bound), draw(0.0, bound)) if self.has_jitter else bound
        step = next(step for below, step in STEPS if seconds < below)
        return round(round(seconds / step) * step, 1)
