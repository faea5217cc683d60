"""The whole run: every pool, from one slot upwards, in a place of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from broker_app.errors import TuningError
from broker_app.tuning import usage
from broker_app.tuning.limits import Limits
from broker_app.tuning.place import private_place
from broker_app.tuning.recommendation import PoolResult, Recommendation, gain_of_prefetch, judge_pool, recommend
from broker_app.tuning.search import next_slots, undecided
from broker_app.tuning.trial import Effort, measure
from broker_app.tuning.worker import check_pool, tuned_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.tuning.figures import Point
    from broker_app.tuning.load import Load
    from broker_app.tuning.place import Place

_MEMORY_SHARE = 0.9
"""A step that is expected to take more than this share of the free memory is not tried."""

_FIRST_BYTES = 100 * 2**20
"""What the first worker, of which nothing is known, may need at least."""

SHORT_SECONDS = 0.1
"""For tasks that run no longer it is measured what a second message for each slot brings."""

_AHEAD = 2

_MORE_VISITS = 2
"""How often a point that decides is measured again, with another worker at another time, while it is uncertain."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        queue: Whose settings the workers have: type, prefetch, time-outs.
        load: What they run.
        pools: In the order of measuring.
        bound: The most slots.
        limits: Of one node.
        effort: How long.
    """

    queue: str
    load: Load
    pools: tuple[str, ...]
    bound: int = 64
    limits: Limits = field(default_factory=Limits)
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, slots=True)
class Tuning:
    """The outcome.

    Attributes:
        plan: What was asked for.
        results: Of each pool.
        recommendation: Or why there is none.
    """

    plan: Plan
    results: tuple[PoolResult, ...]
    recommendation: Recommendation


def tune(
    app: BrokerApp,
    plan: Plan,
    *,
    app_name: str,
    say: Callable[[str], None] = lambda _: None,
    on_leaving: Callable[[], None] = lambda: None,
) -> Tuning:
    """Measure real workers of a private queue, and return what they did and what to take.

    Args:
        app: Whose settings and broker count; its own queues are not touched.
        plan: What to measure.
        app_name: Celery's ``-A``, for the workers.
        say: Is told how far it is.
        on_leaving: Called before the clean-up, which must not be interrupted.

    Raises:
        UnknownQueue: The settings do not declare it.
        TuningError: A pool is not installed, a task failed, a worker ended, or memory is short at the first step.
        BrokerError: No broker, or a right is missing.
        PublishError: It does not take messages.
    """
    usage.check_proc()
    app.settings.routing_table().queue(plan.queue)
    for pool in plan.pools:
        check_pool(pool)
    with private_place(app, plan.queue, on_leaving) as place:
        results = tuple(_measure_pool(place, plan, pool, app_name, say) for pool in plan.pools)
        recommendation = recommend(results, plan.limits, plan.effort.precision)
        if note := _look_ahead(place, plan, recommendation.point, app_name, say):
            recommendation = replace(recommendation, notes=(*recommendation.notes, note))
    return Tuning(plan, results, recommendation)


def _measure_pool(place: Place, plan: Plan, pool: str, app_name: str, say: Callable[[str], None]) -> PoolResult:
    points: dict[int, Point] = {}
    bound = 1 if pool == "solo" else min(plan.bound, plan.limits.connections or plan.bound)
    visits: Counter[int] = Counter()
    while (slots := next_slots(points, bound, plan.limits) or _uncertain(points, plan, visits)) is not None:
        if shortage := _shortage(points, slots):
            say(f"{pool}: {shortage}; not tried")
            break
        visits[slots] += 1
        with tuned_worker(place, app_name, plan.queue, plan.load, (pool, slots)) as worker:
            points[slots] = measure(worker, pool, plan.effort, points.get(slots))
        say(shown_point(points[slots]))
    if not points:
        raise TuningError(f"--pool {pool}: there is no memory for a single worker")
    return judge_pool(points, plan.limits, bound)


def _look_ahead(
    place: Place, plan: Plan, point: Point | None, app_name: str, say: Callable[[str], None]
) -> str | None:
    """Return what the recommended worker gains by taking its next messages before it is done; None if little.

    With one message for each slot a slot that is free waits for the broker's next one: some milliseconds.
    """
    prefetch = place.app.settings.queues[plan.queue].prefetch
    if point is None or prefetch >= _AHEAD or point.run.p50 > SHORT_SECONDS:
        return None
    pool_and_slots = point.pool, point.slots
    with tuned_worker(place, app_name, plan.queue, plan.load, pool_and_slots, prefetch=_AHEAD) as worker:
        ahead = measure(worker, point.pool, plan.effort)
    say(f"with prefetch = {_AHEAD}: {shown_point(ahead)}")
    gain = gain_of_prefetch(point, ahead)
    if gain is None:
        return None
    return (
        f"with prefetch = {_AHEAD} in [queues.{plan.queue}] it does {ahead.throughput:.4g} a second, "
        f"{100 * gain:.0f} % more: a slot need not wait for its next message"
    )


def _uncertain(points: Mapping[int, Point], plan: Plan, visits: Mapping[int, int]) -> int | None:
    """Return the slots of a point that decides and is not known well enough; None if there is none."""
    open_points = undecided(points, plan.limits, plan.effort.precision)
    return next((point.slots for point in open_points if visits[point.slots] <= _MORE_VISITS), None)


def shown_point(point: Point) -> str:
    """Return a point as a line for a person who waits."""
    return (
        f"{point.pool} -c {point.slots}: {point.throughput:.4g} a second ±{100 * point.error:.0f} %, "
        f"run {1000 * point.run.p50:.3g} ms, {point.usage.cpu_cores:.2f} cores, "
        f"{point.usage.memory_bytes / 2**20:.0f} MiB"
    )


def _shortage(points: Mapping[int, Point], slots: int) -> str:
    """Return why the memory is too short for a step, judged by what the slots before took; empty if it is not."""
    needed, free = _expected_bytes(points, slots), usage.available_bytes()
    if needed <= _MEMORY_SHARE * free:
        return ""
    return f"-c {slots} would take about {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"


def _expected_bytes(points: Mapping[int, Point], slots: int) -> float:
    """Return the memory of a number of slots: on the line through the two largest that were measured."""
    *_, before, last = (None, None, *(points[known] for known in sorted(points)))
    if last is None:
        return _FIRST_BYTES
    if before is None:
        return float(last.usage.memory_bytes)
    each = (last.usage.memory_bytes - before.usage.memory_bytes) / (last.slots - before.slots)
    return last.usage.memory_bytes + max(0.0, each) * (slots - last.slots)
