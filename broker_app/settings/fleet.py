"""The settings of a queue's workers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from broker_app.settings.base import FROZEN

DEFAULT_DRAIN_SECONDS = 25.0
"""With the few seconds that a process takes to end it fits into the 30 s that Kubernetes waits before it kills."""


class FleetSettings(BaseModel):
    """The workers of one queue, run by `celery multi`."""

    model_config = FROZEN

    nodes: int = Field(1, ge=0, le=1_000, description="Worker processes on this host; 0 runs none.")
    pool: Literal["prefork", "threads", "solo", "gevent"] = Field("threads", description="Celery's -P.")
    concurrency: int = Field(
        8, ge=1, le=10_000, description="Celery's -c: tasks at once in each node; solo knows only 1."
    )
    drain_seconds: float = Field(
        DEFAULT_DRAIN_SECONDS,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long running tasks may take to finish when a worker is told to end; then they go back.",
    )

    @model_validator(mode="after")
    def _check_solo(self) -> FleetSettings:
        if self.pool == "solo" and self.concurrency != 1:
            raise ValueError(f'concurrency must be 1 with pool = "solo", got {self.concurrency}')
        return self
