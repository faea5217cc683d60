"""When a node that died is started again: after a second, then after twice as long each time, up to a minute."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
CALM_SECONDS = 60.0
"""A node that lived for so long begins anew at `FIRST_SECONDS`."""


@dataclass(slots=True)
class RestartBackoff:
    """The deaths of one node.

    Attributes:
        deaths: In a row, each within `CALM_SECONDS` of its start.
        started_at: When it was last seen to come up, on a clock that only rises; None if it never was.
        due_at: When it may be started again; None while it runs.
    """

    deaths: int = 0
    started_at: float | None = None
    due_at: float | None = None

    def died(self, now: float, *, hung_seconds: float = 0.0) -> float:
        """Take note of a death, or of a start that failed, and return how long to wait, in seconds.

        Args:
            now: On the clock of `started_at`.
            hung_seconds: How long it had hung, which does not count as life.
        """
        if self.started_at is not None and now - hung_seconds - self.started_at >= CALM_SECONDS:
            self.deaths = 0
        wait_seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self.deaths)
        self.deaths = min(self.deaths + 1, 30)  # far beyond the longest wait
        self.started_at, self.due_at = None, now + wait_seconds
        return wait_seconds

    def ran(self, now: float) -> None:
        """Take note that it runs."""
        if self.started_at is None:
            self.started_at = now
        self.due_at = None
