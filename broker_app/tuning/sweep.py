"""Tuning run: measures every pool from one slot upwards in a sandbox, and recommends one."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from broker_app.errors import TuningError
from broker_app.tuning import proc_usage
from broker_app.tuning.budget import Budget, point_seconds
from broker_app.tuning.limits import NodeLimits
from broker_app.tuning.measurement import Measurement
from broker_app.tuning.readable import shown_duration, shown_number
from broker_app.tuning.recommendation import PoolResult, Recommendation, gain_of_prefetch, judge_pool, recommend
from broker_app.tuning.sandbox import private_place
from broker_app.tuning.search import next_slots, undecided
from broker_app.tuning.trial import TrialEffort, measure
from broker_app.tuning.worker import check_pool, tuned_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.tuning.load import TaskLoad
    from broker_app.tuning.sandbox import Sandbox

BOUND, ASYNCIO_BOUND = 64, 1_000
"""Default maximum number of slots: a waiting coroutine costs far less than a thread."""

_MEMORY_SHARE = 0.9
"""A step expected to use more than this share of the free memory is skipped."""

_FIRST_BYTES = 100 * 2**20
"""Assumed memory of the first worker, before anything is measured."""

SHORT_SECONDS = 0.1
"""For tasks up to this run time, a prefetch of two messages per slot is measured as well."""

_AHEAD = 2

_LOOK_SECONDS = 1.0
_BUSY_SHARE = 0.2
"""Other programs distort the figures if they use at least this share of the cores."""

_MORE_VISITS = 2
"""Limit on measuring a deciding point again, each time with a new worker, while it is uncertain."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Plan of a tuning run.

    Attributes:
        queue: The queue whose type, prefetch and time-outs are used.
        load: The tasks to run.
        pools: The pools, in the order they are measured.
        bound: Maximum number of slots; None for `BOUND`, of asyncio `ASYNCIO_BOUND`.
        limits: Limits of one node.
        effort: Duration and precision of each measurement.
        seconds: Time limit of the whole run; None for no limit.
    """

    queue: str
    load: TaskLoad
    pools: tuple[str, ...]
    bound: int | None = None
    limits: NodeLimits = field(default_factory=NodeLimits)
    effort: TrialEffort = field(default_factory=TrialEffort)
    seconds: float | None = None

    def bound_of(self, pool: str) -> int:
        """Return the maximum number of slots of a pool."""
        bound = self.bound or (ASYNCIO_BOUND if pool == "asyncio" else BOUND)
        return 1 if pool == "solo" else min(bound, self.limits.connections or bound)


@dataclass(frozen=True, slots=True)
class TuningResult:
    """Result of a tuning run.

    Attributes:
        plan: The plan of the run.
        results: The result of each pool.
        recommendation: The recommendation, or the reasons against one.
    """

    plan: SweepPlan
    results: tuple[PoolResult, ...]
    recommendation: Recommendation


def tune(
    app: BrokerApp,
    plan: SweepPlan,
    *,
    app_name: str,
    say: Callable[[str], None] = lambda _: None,
    on_leaving: Callable[[], object] = lambda: None,
) -> TuningResult:
    """Measure real workers on a private queue, and recommend a pool and its slots.

    Args:
        app: The app whose settings and broker are used; its own queues are not touched.
        plan: The pools, load and limits to measure.
        app_name: Celery's ``-A``, for the workers.
        say: Called with progress messages.
        on_leaving: Called before the clean-up, which must not be interrupted.

    Raises:
        UnknownQueue: The settings do not declare the queue.
        TuningError: A pool is not installed, a task failed, a worker ended, or memory is short at the first step.
        BrokerError: The broker is unreachable, or a permission is missing.
        PublishError: The broker did not accept the messages.
    """
    proc_usage.check_proc()
    app.settings.routing_table().queue(plan.queue)
    for pool in plan.pools:
        check_pool(pool)
    with private_place(app, plan.queue, on_leaving) as sandbox:
        sweep = _Sweep(sandbox, plan, app_name, say)
        results = sweep.measure_pools()
        recommendation = recommend(results, plan.limits, plan.effort.precision)
        if note := sweep.look_ahead(recommendation.point):
            sweep.notes.append(note)
    return TuningResult(plan, results, replace(recommendation, notes=(*recommendation.notes, *sweep.notes)))


class _Sweep:
    """A tuning run in its sandbox.

    Attributes:
        notes: Caveats about the figures.
    """

    def __init__(self, sandbox: Sandbox, plan: SweepPlan, app_name: str, say: Callable[[str], None]) -> None:
        self.notes: list[str] = []
        self._sandbox = sandbox
        self._plan = plan
        self._app_name = app_name
        self._say = say
        self._budget = Budget(plan.seconds, point_seconds(plan.load, plan.effort))

    def measure_pools(self) -> tuple[PoolResult, ...]:
        """Measure each pool. A time limit is divided equally, and the first pool is always started."""
        pools = self._plan.pools
        self._say(self._budget.words(len(pools), max(map(self._plan.bound_of, pools))))
        if note := busy_host(proc_usage.others_busy_cores(_LOOK_SECONDS), proc_usage.cores()):
            self._say(note)
        results: list[PoolResult] = []
        for number, pool in enumerate(pools):
            end = self._budget.share(len(pools) - number)
            if results and not self._budget.allows(end):
                self.notes.append(f"{pool} was not measured: --minutes left no time for it")
                continue
            results.append(self._measure_pool(pool, end))
        return tuple(results)

    def _measure_pool(self, pool: str, end: float) -> PoolResult:
        plan, points = self._plan, dict[int, Measurement]()
        bound, visits = plan.bound_of(pool), Counter[int]()
        while (slots := next_slots(points, bound, plan.limits) or _uncertain(points, plan, visits)) is not None:
            if shortage := _shortage(points, slots):
                self._say(f"{pool}: {shortage}; not tried")
                break
            if points and not self._budget.allows(end):
                self.notes.append(f"{pool} was not measured to its end: --minutes left no time for -c {slots}")
                break
            visits[slots] += 1
            points[slots] = self._measure(pool, slots, known=points.get(slots))
            self._say(shown_point(points[slots]))
        if not points:
            raise TuningError(f"--pool {pool}: there is no memory for a single worker")
        return judge_pool(points, plan.limits, bound)

    def _measure(
        self, pool: str, slots: int, *, known: Measurement | None = None, prefetch: int | None = None
    ) -> Measurement:
        plan, begin = self._plan, time.monotonic()
        with tuned_worker(
            self._sandbox, self._app_name, plan.queue, plan.load, (pool, slots), prefetch=prefetch
        ) as worker:
            point = measure(worker, pool, plan.effort, known)
        self._budget.took(time.monotonic() - begin)
        return point

    def look_ahead(self, point: Measurement | None) -> str | None:
        """Return a note on the gain from a larger prefetch for the recommended worker; None if it is small.

        With one message per slot, a free slot waits some milliseconds for the broker's next message.
        """
        queue = self._plan.queue
        prefetch = self._sandbox.app.settings.queues[queue].prefetch
        if point is None or prefetch == "auto" or prefetch >= _AHEAD or point.run.p50 > SHORT_SECONDS:
            return None
        if not self._budget.allows(self._budget.share(1)):
            return None
        ahead = self._measure(point.pool, point.slots, prefetch=_AHEAD)
        self._say(f"with prefetch = {_AHEAD}: {shown_point(ahead)}")
        gain = gain_of_prefetch(point, ahead)
        if gain is None:
            return None
        return (
            f"with prefetch = {_AHEAD} in [queues.{queue}] it does {shown_number(ahead.throughput)} a second, "
            f"{100 * gain:.0f} % more: slots do not wait for their next message"
        )


def busy_host(others: float, cores: int) -> str:
    """Return a warning if other programs keep the host busy, otherwise an empty string.

    Args:
        others: Cores used by other programs.
        cores: Cores of the host.
    """
    if others < _BUSY_SHARE * cores:
        return ""
    return (
        f"this host is busy: other programs use {others:.1f} of its {cores} cores, so the figures will be "
        f"uncertain and too low, and perhaps nothing can be recommended; end them, or try again later"
    )


def _uncertain(points: Mapping[int, Measurement], plan: SweepPlan, visits: Mapping[int, int]) -> int | None:
    """Return the slots of a deciding point that is still too uncertain, or None."""
    open_points = undecided(points, plan.limits, plan.effort.precision)
    return next((point.slots for point in open_points if visits[point.slots] <= _MORE_VISITS), None)


def shown_point(point: Measurement) -> str:
    """Return a point as a line of progress output."""
    return (
        f"{point.pool} -c {point.slots}: {shown_number(point.throughput)} a second ±{100 * point.error:.0f} %, "
        f"run {shown_duration(point.run.p50)}, {point.usage.cpu_cores:.2f} cores, "
        f"{point.usage.memory_bytes / 2**20:.0f} MiB"
    )


def _shortage(points: Mapping[int, Measurement], slots: int) -> str:
    """Return why memory does not suffice for a step, extrapolated from previous steps; empty if it suffices."""
    needed, free = _expected_bytes(points, slots), proc_usage.available_bytes()
    if needed <= _MEMORY_SHARE * free:
        return ""
    return f"-c {slots} would take about {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"


def _expected_bytes(points: Mapping[int, Measurement], slots: int) -> float:
    """Return the expected memory for a slot count, extrapolated linearly from the two largest measured ones."""
    *_, before, last = (None, None, *(points[known] for known in sorted(points)))
    if last is None:
        return _FIRST_BYTES
    if before is None:
        return float(last.usage.memory_bytes)
    each = (last.usage.memory_bytes - before.usage.memory_bytes) / (last.slots - before.slots)
    return last.usage.memory_bytes + max(0.0, each) * (slots - last.slots)
