"""Restart backoff: a node that died is restarted after one second, doubling up to one minute."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
CALM_SECONDS = 60.0
"""After this uptime, the backoff restarts at `FIRST_SECONDS`."""


@dataclass(slots=True)
class RestartBackoff:
    """The restart backoff of one node.

    Attributes:
        deaths: Consecutive deaths, each within `CALM_SECONDS` of the start.
        started_at: Monotonic time when it was first seen running; None since its last death.
        due_at: When it may be restarted; None while it runs.
    """

    deaths: int = 0
    started_at: float | None = None
    due_at: float | None = None

    def died(self, now: float, *, hung_seconds: float = 0.0) -> float:
        """Record a death or a failed start, and return the delay before the restart in seconds.

        Args:
            now: Monotonic time.
            hung_seconds: How long it had hung; this does not count as uptime.
        """
        if self.started_at is not None and now - hung_seconds - self.started_at >= CALM_SECONDS:
            self.deaths = 0
        wait_seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self.deaths)
        self.deaths = min(self.deaths + 1, 30)  # keeps the power small; far beyond the longest wait
        self.started_at, self.due_at = None, now + wait_seconds
        return wait_seconds

    def ran(self, now: float) -> None:
        """Record that the node runs."""
        if self.started_at is None:
            self.started_at = now
        self.due_at = None
