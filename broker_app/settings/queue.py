"""The settings of one queue."""

from __future__ import annotations

from bisect import bisect_left

from pydantic import BaseModel, Field, field_validator

from broker_app.queues import Backoff, DeadLetters, QueueType
from broker_app.queues.objectives import BOUNDS_SECONDS
from broker_app.settings.base import FROZEN, Positive
from broker_app.settings.fleet import FleetSettings


class RetrySettings(BaseModel):
    """How a task that raises is tried again, unless it retries by itself."""

    model_config = FROZEN

    max_retries: int = Field(0, ge=0, le=1_000, description="Retries after the first run; 0 retries nothing.")
    first_seconds: Positive = Field(1.0, description="The longest wait before the first retry.")
    factor: float = Field(
        2.0, ge=1, le=100, allow_inf_nan=False, description="What each further wait may be longer by."
    )
    longest_seconds: Positive = Field(600.0, description="The longest wait before any retry.")
    jitter: bool = Field(
        default=True, description="Draw each wait, up to its longest, so that tasks do not come back together."
    )


class QueueSettings(BaseModel):
    """One queue: all that there is to say about it stands here."""

    model_config = FROZEN

    type: QueueType = Field(QueueType.QUORUM, description="quorum (replicated) or classic (one node).")
    priorities: bool = Field(
        default=False, description="Whether messages may carry a priority 0..9, larger is more urgent."
    )
    prefetch: int = Field(1, ge=1, le=1_000, description="Messages reserved ahead for each slot of a worker.")
    delivery_limit: int = Field(
        5, ge=1, le=1_000, description="Starts in each of which its worker died, after which a task is poison."
    )
    longest_run_seconds: Positive = Field(
        900.0, description="The longest run of a task here; below the broker's consumer time-out."
    )
    dead_letters: DeadLetters = Field(DeadLetters.KEEP, description="keep in <queue>.dead, or discard.")
    wait_objective_seconds: float | None = Field(
        None,
        description="What a task should not wait longer for its start, past its wished delay; one of the bounds "
        "of the metrics' buckets (docs/metrics.md). None is no objective.",
    )
    wait_objective_percent: float = Field(
        99.0, ge=50, le=99.99, allow_inf_nan=False, description="Of the tasks; the others may wait longer."
    )
    retry: RetrySettings = Field(default_factory=RetrySettings, description="How its failed tasks are retried.")
    fleet: FleetSettings = Field(default_factory=FleetSettings, description="Its workers.")

    @field_validator("wait_objective_seconds")
    @classmethod
    def _check_bound(cls, seconds: float | None) -> float | None:
        """Take only what the histograms can tell exactly: how many waited longer than one of their bounds."""
        if seconds is not None and seconds not in BOUNDS_SECONDS:
            place = bisect_left(BOUNDS_SECONDS, seconds)
            near = " or ".join(f"{bound:g}" for bound in BOUNDS_SECONDS[max(0, place - 1) : place + 1])
            raise ValueError(f"must be a bound of the metrics' buckets, the nearest are {near}; got {seconds:g}")
        return seconds

    def backoff(self) -> Backoff:
        """Return the retries as `queues` knows them."""
        retry = self.retry
        return Backoff(
            retry.max_retries, retry.first_seconds, retry.factor, retry.longest_seconds, has_jitter=retry.jitter
        )
