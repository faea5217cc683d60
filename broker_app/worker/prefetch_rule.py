"""Prefetch rule: how many messages a worker with ``prefetch = "auto"`` may hold beyond one for each slot.

A message counts until its result is stored and it is acknowledged, though its slot is free once the body has
ended. So with one message per slot, slots stand idle for as long as the store and the broker take, which matters
if the tasks are short. But a message that waits here is not available to an idle node. So only tasks that are
over soon are held in advance, and only as many as the slots finish in `AHEAD_SECONDS`. If one waits longer than
`LONGEST_WAIT_SECONDS` nevertheless, because long tasks came, all waiting messages are returned.
"""

from __future__ import annotations

from dataclasses import dataclass

AHEAD_SECONDS = 0.1
"""The slots finish the extra messages in this time."""

LONGEST_WAIT_SECONDS = 0.2
"""Longest time for which an extra message may wait for a slot."""

MAX_EXTRA_PER_SLOT = 3

PERIOD_SECONDS = 1.0
"""Time over which the mean run time is taken."""

LEAST_ENDS = 50
"""Tasks that must end in a period, and at least one for each slot; fewer do not need it, and prove little."""

QUIET_PERIODS = 5
"""Periods with fewer tasks after which a worker holds one message per slot again."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 300.0
"""Pause after messages had to be returned. It doubles with each time, so that a mix of short and long tasks does
not make messages go back and forth."""

STABLE_SECONDS = 60.0
"""Time without a return after which the pause is the first again."""

_SHORTEST_SECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Load:
    """A worker's load since the last look.

    Attributes:
        ended: Tasks that have ended.
        run_seconds: The sum of their run times.
        waited_seconds: For how long the message that has waited longest for a slot has waited; 0 if none waits.
    """

    ended: int
    run_seconds: float
    waited_seconds: float


class PrefetchRule:
    """Decides how many extra messages a worker may hold.

    Args:
        slots: The worker's slots.
        now: The current time, in seconds.

    Attributes:
        extra: The present number.
    """

    def __init__(self, slots: int, now: float) -> None:
        self.extra = 0
        self._slots = slots
        self._ended, self._run_seconds, self._period_began = 0, 0.0, now
        self._quiet_periods = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._paused_until = self._changed_at = now

    def look(self, load: Load, now: float) -> int:
        """Return the number of extra messages that the worker may hold from now on.

        Args:
            load: The load since the last call.
            now: The current time, in seconds.
        """
        self._ended += load.ended
        self._run_seconds += load.run_seconds
        if self.extra and load.waited_seconds > LONGEST_WAIT_SECONDS:
            self._return_all(now)
        elif now - self._period_began >= PERIOD_SECONDS:
            self._judge(now)
            self._begin_period(now)
        return self.extra

    def reset(self, now: float) -> None:
        """Begin with one message per slot: the connection is new, or something else ended the extra consumers."""
        self.extra = 0
        self._begin_period(now)

    def _judge(self, now: float) -> None:
        if self._ended < max(self._slots, LEAST_ENDS):
            self._quiet_periods += 1
            if self._quiet_periods >= QUIET_PERIODS:
                self.extra = 0
            return
        self._quiet_periods = 0
        mean_seconds = self._run_seconds / self._ended
        if mean_seconds * self.extra > LONGEST_WAIT_SECONDS * self._slots:
            self._return_all(now)
        elif now >= self._paused_until and (wanted := self._wanted(mean_seconds)) > self.extra:
            self.extra, self._changed_at = wanted, now

    def _wanted(self, mean_seconds: float) -> int:
        return self._slots * min(MAX_EXTRA_PER_SLOT, int(AHEAD_SECONDS / max(mean_seconds, _SHORTEST_SECONDS)))

    def _return_all(self, now: float) -> None:
        is_stable = now - self._changed_at > STABLE_SECONDS
        self._pause_seconds = (
            FIRST_PAUSE_SECONDS if is_stable else min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        )
        self._paused_until = now + self._pause_seconds
        self.extra, self._changed_at = 0, now
        self._begin_period(now)

    def _begin_period(self, now: float) -> None:
        self._ended, self._run_seconds, self._period_began = 0, 0.0, now
