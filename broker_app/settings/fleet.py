"""The settings of a queue's workers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from broker_app.settings.base import Problem, Table
from broker_app.settings.problems import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DRAIN_SECONDS = 25.0
"""With the few seconds that a process takes to end it fits into the 30 s that Kubernetes waits before it kills."""

LOWEST_NICE = 19
"""The kernel's own bound (setpriority(2)); below 0 is for root alone, and not for workers."""

_YEAR_SECONDS = 365 * 86_400
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class FleetSettings(Table):
    """The workers of one queue, run by `celery multi`."""

    nodes: int = Field(1, ge=0, le=1_000, description="Worker processes on this host; 0 runs none.")
    pool: Literal["prefork", "threads", "solo", "gevent"] = Field("threads", description="Celery's -P.")
    concurrency: int = Field(
        8, ge=1, le=10_000, description="Celery's -c: tasks at once in each node; solo knows only 1."
    )
    time_limit_seconds: float | None = Field(
        None, gt=0, le=_YEAR_SECONDS, description="Celery's --time-limit: when a task is ended; not with solo."
    )
    soft_time_limit_seconds: float | None = Field(
        None,
        gt=0,
        le=_YEAR_SECONDS,
        description="Celery's --soft-time-limit: when SoftTimeLimitExceeded is raised in a task; below the other.",
    )
    max_tasks_per_child: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Tasks after which a process of a prefork pool is replaced."
    )
    max_memory_per_child_mb: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Memory, in MiB, beyond which a process of a prefork pool is replaced after its task.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables for the workers; their values are never shown."
    )
    nice: int = Field(
        0,
        ge=0,
        le=LOWEST_NICE,
        description="nice(1) of the worker processes: processor time that they leave to others.",
    )
    helps: tuple[str, ...] = Field(
        (), description="Other queues whose overflow its idle workers take; their own workers come first."
    )
    helps_slots: int = Field(
        1, ge=1, le=10_000, description="The most tasks of each of them that a worker runs at once."
    )
    drain_seconds: float = Field(
        DEFAULT_DRAIN_SECONDS,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long running tasks may take to finish when a worker is told to end; then they go back.",
    )

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between the fields."""
        yield from self._of_pool()
        yield from self._of_limits()
        yield from self._of_helps()
        yield from self._of_environment()

    def _of_pool(self) -> Iterator[Problem]:
        if self.pool == "solo" and self.concurrency != 1:
            yield ("pool", "concurrency"), f'concurrency must be 1 with pool = "solo", got {self.concurrency}'
        if self.pool == "solo":
            limits = ("time_limit_seconds", "soft_time_limit_seconds")
            yield from self._refused(limits, "prefork, threads or gevent")
        if self.pool != "prefork":
            yield from self._refused(("max_tasks_per_child", "max_memory_per_child_mb"), "prefork")

    def _of_limits(self) -> Iterator[Problem]:
        soft, hard = self.soft_time_limit_seconds, self.time_limit_seconds
        if soft is not None and hard is not None and soft >= hard:
            text = f"soft_time_limit_seconds must be below time_limit_seconds ({hard:g}), got {soft:g}"
            fields = ("soft_time_limit_seconds", "time_limit_seconds")
            yield fields, f"{text}; leave a task the time to clean up"

    def _of_helps(self) -> Iterator[Problem]:
        given = len(self.helps) * self.helps_slots
        if self.helps and given >= self.concurrency:
            text = (
                f"helps_slots for each of {len(self.helps)} queues must leave a slot of concurrency "
                f"({self.concurrency}), got {self.helps_slots}; lower it"
            )
            yield ("helps", "helps_slots", "concurrency"), text

    def _of_environment(self) -> Iterator[Problem]:
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                text = f"environment must hold names such as MY_PROXY, got {name!r}; correct it"
                yield ("environment",), text
            elif name.startswith(ENV_PREFIX):
                text = f"environment must not hold {name}: the commands would not see it; set it where they run"
                yield ("environment",), text

    def _refused(self, names: tuple[str, ...], pools: str) -> Iterator[Problem]:
        for name in names:
            if getattr(self, name) is not None:
                yield ("pool", name), f'{name} needs pool = {pools}, got pool = "{self.pool}"; delete one of them'
