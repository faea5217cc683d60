"""Time: how long a run will take, and a bound on it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.tuning.load import SIMULATED_TASK
from broker_app.tuning.readable import shown_duration

if TYPE_CHECKING:
    from broker_app.tuning.load import TaskLoad
    from broker_app.tuning.trial import TrialEffort

START_SECONDS = 5.0
"""A worker's start and end, on a machine that is otherwise quiet."""

_FEWEST_POINTS = 4
_MORE_POINTS = 5
"""Numbers of slots between the doublings, and points that are measured again because they are uncertain."""


def point_seconds(load: TaskLoad, effort: TrialEffort) -> float:
    """Return about how long one number of slots takes; the time of a real task is not known and counts as 0."""
    task = max((sum(call.args[:2]) for call in load.calls if call.task == SIMULATED_TASK), default=0.0)
    one_round = max(effort.round_seconds, min(task, 10 * effort.round_seconds)) + 2 * task
    return START_SECONDS + effort.warm_up_seconds + task + (effort.min_rounds + 1) * one_round


def estimate(pools: int, bound: int, each_seconds: float) -> tuple[float, float]:
    """Return the shortest and the longest time that a run is expected to take, in seconds.

    Args:
        pools: How many are measured.
        bound: The most slots.
        each_seconds: Of one number of slots.
    """
    most = 1 + math.ceil(math.log2(bound))
    return min(most, _FEWEST_POINTS) * pools * each_seconds, (most + _MORE_POINTS) * pools * each_seconds


@dataclass(slots=True)
class Budget:
    """The time of a run, shared among its pools.

    Attributes:
        seconds: Of the whole run; None for no bound.
        each_seconds: Of one number of slots: expected, then the longest that was seen.
        begin: When it began, on the monotonic clock.
    """

    seconds: float | None
    each_seconds: float
    begin: float = field(default_factory=time.monotonic)

    def share(self, pools: int) -> float:
        """Return when the next of so many pools must be done, on the monotonic clock."""
        if self.seconds is None:
            return math.inf
        now = time.monotonic()
        return now + (self.begin + self.seconds - now) / pools

    def allows(self, end: float) -> bool:
        """Return whether one more number of slots is expected to be done by then."""
        return time.monotonic() + self.each_seconds <= end

    def took(self, seconds: float) -> None:
        """Take note of how long a number of slots took."""
        self.each_seconds = max(self.each_seconds, seconds)

    def words(self, pools: int, bound: int) -> str:
        """Return the expected duration as a sentence."""
        low, high = estimate(pools, bound, self.each_seconds)
        each = f"about {shown_duration(self.each_seconds)} for each number of slots"
        if self.seconds is not None and self.seconds < high:
            return f"this takes up to {shown_duration(self.seconds)} (--minutes), {each}"
        return f"this takes about {shown_duration(low)} to {shown_duration(high)}, {each}; --minutes bounds it"
