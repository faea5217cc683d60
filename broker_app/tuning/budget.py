"""Time budget: the estimated duration of a tuning run, and its limit."""

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
"""Time to start and stop a worker on an otherwise idle machine."""

_FEWEST_POINTS = 4
_MORE_POINTS = 5
"""Allowance for slot counts between the doublings and for uncertain points that are measured again."""


def point_seconds(load: TaskLoad, effort: TrialEffort) -> float:
    """Return the approximate time to measure one slot count; a real task's run time is unknown and counts as 0."""
    task = max((sum(call.args[:2]) for call in load.calls if call.task == SIMULATED_TASK), default=0.0)
    one_round = max(effort.round_seconds, min(task, 10 * effort.round_seconds)) + 2 * task
    return START_SECONDS + effort.warm_up_seconds + task + (effort.min_rounds + 1) * one_round


def estimate(pools: int, bound: int, each_seconds: float) -> tuple[float, float]:
    """Return the minimum and maximum expected duration of a run, in seconds.

    Args:
        pools: Number of pools to measure.
        bound: Maximum number of slots.
        each_seconds: Time to measure one slot count.
    """
    most = 1 + math.ceil(math.log2(bound))
    return min(most, _FEWEST_POINTS) * pools * each_seconds, (most + _MORE_POINTS) * pools * each_seconds


@dataclass(slots=True)
class Budget:
    """The time of a run, divided among its pools.

    Attributes:
        seconds: Limit of the whole run; None for no limit.
        each_seconds: Time to measure one slot count: the estimate, then the longest measured.
        begin: Start of the run, on the monotonic clock.
    """

    seconds: float | None
    each_seconds: float
    begin: float = field(default_factory=time.monotonic)

    def share(self, pools: int) -> float:
        """Return the deadline of the next pool on the monotonic clock, with ``pools`` left to measure."""
        if self.seconds is None:
            return math.inf
        now = time.monotonic()
        return now + (self.begin + self.seconds - now) / pools

    def allows(self, end: float) -> bool:
        """Return whether another slot count can be expected to finish by a deadline."""
        return time.monotonic() + self.each_seconds <= end

    def took(self, seconds: float) -> None:
        """Record how long a slot count took to measure."""
        self.each_seconds = max(self.each_seconds, seconds)

    def words(self, pools: int, bound: int) -> str:
        """Return the expected duration as a sentence."""
        low, high = estimate(pools, bound, self.each_seconds)
        each = f"about {shown_duration(self.each_seconds)} for each number of slots"
        if self.seconds is not None and self.seconds < high:
            return f"this takes up to {shown_duration(self.seconds)} (--minutes), {each}"
        return f"this takes about {shown_duration(low)} to {shown_duration(high)}, {each}; --minutes bounds it"
