"""Fleet settings: the workers of a queue."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from broker_app.settings.base import Problem, Table
from broker_app.settings.problems import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_DRAIN_SECONDS = 25.0
"""Leaves a few seconds for the process to exit within the 30 s that Kubernetes waits before SIGKILL."""

LOWEST_NICE = 19
"""The kernel's limit (setpriority(2)). Negative values need root, and workers do not need them."""

PoolName = Literal["prefork", "threads", "asyncio", "solo", "gevent"]

_YEAR_SECONDS = 365 * 86_400
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class FleetSettings(Table):
    """The workers of one queue, started with `celery multi`."""

    nodes: int = Field(1, ge=0, le=1_000, description="Worker processes on this host; 0 starts none.")
    pool: PoolName = Field("threads", description="Celery's -P.")
    concurrency: int = Field(
        8, ge=1, le=10_000, description="Celery's -c: tasks each node runs at once; solo allows only 1."
    )
    time_limit_seconds: float | None = Field(
        None,
        gt=0,
        le=_YEAR_SECONDS,
        description="Celery's --time-limit: a task is killed after this time; not with solo.",
    )
    soft_time_limit_seconds: float | None = Field(
        None,
        gt=0,
        le=_YEAR_SECONDS,
        description="Celery's --soft-time-limit: raises SoftTimeLimitExceeded; below time_limit_seconds.",
    )
    max_tasks_per_child: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Tasks after which a process of the prefork pool is replaced."
    )
    max_memory_per_child_mb: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Memory in MiB above which a process of the prefork pool is replaced after its current task.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables for the workers; their values are never shown."
    )
    nice: int = Field(
        0,
        ge=0,
        le=LOWEST_NICE,
        description="nice(1) value of the workers: larger leaves more processor time to other processes.",
    )
    helps: tuple[str, ...] = Field(
        (),
        description="Other queues whose overflow idle workers take; a queue's own workers come first.",
    )
    helps_slots: int = Field(
        1, ge=1, le=10_000, description="Maximum tasks a worker runs at once from each queue in helps."
    )
    drain_seconds: float = Field(
        DEFAULT_DRAIN_SECONDS,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Time running tasks have to finish when a worker shuts down; then they are requeued.",
    )

    def problems(self) -> Iterator[Problem]:
        """Yield the conflicts between fields."""
        yield from self._of_pool()
        yield from self._of_limits()
        yield from self._of_helps()
        yield from self._of_environment()

    def _of_pool(self) -> Iterator[Problem]:
        if self.pool == "solo" and self.concurrency != 1:
            yield ("pool", "concurrency"), f'concurrency must be 1 with pool = "solo", got {self.concurrency}'
        if self.pool == "solo":
            limits = ("time_limit_seconds", "soft_time_limit_seconds")
            yield from self._refused(limits, "prefork, threads, asyncio or gevent")
        if self.pool != "prefork":
            yield from self._refused(("max_tasks_per_child", "max_memory_per_child_mb"), "prefork")

    def _of_limits(self) -> Iterator[Problem]:
        soft, hard = self.soft_time_limit_seconds, self.time_limit_seconds
        if soft is not None and hard is not None and soft >= hard:
            text = f"soft_time_limit_seconds must be below time_limit_seconds ({hard:g}), got {soft:g}"
            fields = ("soft_time_limit_seconds", "time_limit_seconds")
            yield fields, f"{text}; give the task time to clean up"

    def _of_helps(self) -> Iterator[Problem]:
        given = len(self.helps) * self.helps_slots
        if self.helps and given >= self.concurrency:
            text = (
                f"helps_slots for each of {len(self.helps)} queues must leave at least one slot of concurrency "
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
