"""Queue settings: a queue's type, limits, retries and workers."""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from broker_app.queues import Backoff, DeadLetters, QueueType
from broker_app.queues.objectives import BOUNDS_SECONDS
from broker_app.settings.base import FROZEN, Positive
from broker_app.settings.fleet import FleetSettings

MAX_PREFETCH = 1_000


class RetrySettings(BaseModel):
    """Automatic retries of tasks that raise, unless the task retries itself."""

    model_config = FROZEN

    max_retries: int = Field(0, ge=0, le=1_000, description="Retries after the first run; 0 disables retries.")
    first_seconds: Positive = Field(1.0, description="Maximum wait before the first retry.")
    factor: float = Field(
        2.0, ge=1, le=100, allow_inf_nan=False, description="Multiplies the maximum wait after each retry."
    )
    longest_seconds: Positive = Field(600.0, description="Maximum wait before any retry.")
    jitter: bool = Field(
        default=True, description="Use a random wait, up to the maximum, so that tasks do not retry all at once."
    )


class QueueSettings(BaseModel):
    """All settings of one queue."""

    model_config = FROZEN

    type: QueueType = Field(QueueType.QUORUM, description="quorum (replicated) or classic (one node).")
    priorities: bool = Field(default=False, description="Allow message priorities 0..9; larger is more urgent.")
    prefetch: Annotated[int, Field(ge=1, le=MAX_PREFETCH)] | Literal["auto"] = Field(
        1,
        description="Messages prefetched for each slot of a worker; `auto` is 1, and up to 4 while the tasks of a "
        "worker with threads or gevent are short.",
    )
    delivery_limit: int = Field(
        5, ge=1, le=1_000, description="Starts that each killed the worker, after which a task counts as poison."
    )
    longest_run_seconds: Positive = Field(
        900.0, description="Longest expected run of a task; must be below the broker's consumer timeout."
    )
    dead_letters: DeadLetters = Field(
        DeadLetters.KEEP, description="Keep dead letters in <queue>.dead, or discard them."
    )
    wait_objective_seconds: float | None = Field(
        None,
        description="Longest time a task should wait for its start once it is due; must be a bucket bound of the "
        "metrics (docs/reference/metrics.md). None means no objective.",
    )
    wait_objective_percent: float = Field(
        99.0,
        ge=50,
        le=99.99,
        allow_inf_nan=False,
        description="Percentage of tasks that should start within wait_objective_seconds.",
    )
    retry: RetrySettings = Field(default_factory=RetrySettings, description="Retries of failed tasks.")
    fleet: FleetSettings = Field(default_factory=FleetSettings, description="The queue's workers.")

    @field_validator("prefetch", mode="plain")
    @classmethod
    def _check_prefetch(cls, value: Any) -> int | str:
        """Accept a number or "auto"; pydantic would report a bad value once for each of the two."""
        shown = str(value)
        if shown != "auto" and not (shown.isdecimal() and 1 <= int(shown) <= MAX_PREFETCH):
            raise ValueError(f'must be "auto" or a whole number from 1 to {MAX_PREFETCH:,}; got {shown[:20]!r}')
        return "auto" if shown == "auto" else int(shown)

    @field_validator("wait_objective_seconds")
    @classmethod
    def _check_bound(cls, seconds: float | None) -> float | None:
        """Accept bucket bounds only, because a histogram counts exactly only at its bounds."""
        if seconds is not None and seconds not in BOUNDS_SECONDS:
            place = bisect_left(BOUNDS_SECONDS, seconds)
            near = " or ".join(f"{bound:g}" for bound in BOUNDS_SECONDS[max(0, place - 1) : place + 1])
            raise ValueError(f"must be a bucket bound of the metrics, the nearest are {near}; got {seconds:g}")
        return seconds

    @property
    def least_prefetch(self) -> int:
        """Messages that each slot of a worker may always hold."""
        return 1 if self.prefetch == "auto" else self.prefetch

    def backoff(self) -> Backoff:
        """Return the retry policy of this queue."""
        retry = self.retry
        return Backoff(
            retry.max_retries, retry.first_seconds, retry.factor, retry.longest_seconds, has_jitter=retry.jitter
        )
