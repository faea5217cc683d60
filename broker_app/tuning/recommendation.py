"""Recommendation of a pool and its slots, made only if the measurements are precise enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.tuning.limits import Ceiling, NodeLimits, ceiling
from broker_app.tuning.scalability import Confidence, ScalabilityCurve, confidence, fit_law, misfit
from broker_app.tuning.search import knee_of, undecided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker_app.tuning.measurement import Measurement

MIN_POINTS_OF_A_LAW = 4
"""One more than the law's three parameters: with fewer points, a fit is always exact and says nothing."""

CORNER = 0.08
"""A fit that misses a point by more than this share is reported as poor."""

ALIKE = 0.05
"""Pools whose knees differ by less than this share count as equal; the one with the least memory wins."""


@dataclass(frozen=True, slots=True)
class PoolResult:
    """Result of one pool.

    Attributes:
        pool: Celery's ``-P``.
        points: Measurements by slots, in ascending order.
        knee: The fewest slots with 95 % of the best throughput within the limits; None if no point keeps them.
        best: The point with the best throughput, regardless of limits.
        law: The curve fitted to all points.
        confidence: Confidence of the fit; None if there are too few points.
        misfit: The largest relative distance of a point from the curve.
        ceiling: The bottleneck.
    """

    pool: str
    points: Mapping[int, Measurement]
    knee: Measurement | None
    best: Measurement
    law: ScalabilityCurve
    confidence: Confidence | None
    misfit: float
    ceiling: Ceiling


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended pool and slots, or the reasons why there is no recommendation.

    Attributes:
        result: The chosen pool; None without a recommendation.
        refusals: Reasons why nothing is recommended; empty with a recommendation.
        notes: Additional remarks.
    """

    result: PoolResult | None
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def point(self) -> Measurement | None:
        """The recommended pool and slots."""
        return self.result.knee if self.result else None


def judge_pool(points: Mapping[int, Measurement], limits: NodeLimits, bound: int) -> PoolResult:
    """Return the result of one pool from at least one point."""
    ordered = dict(sorted(points.items()))
    curve = fit_law({slots: point.throughput for slots, point in ordered.items()})
    rounds = {slots: point.throughputs for slots, point in ordered.items()}
    return PoolResult(
        pool=next(iter(ordered.values())).pool,
        points=ordered,
        knee=knee_of(ordered, limits),
        best=max(ordered.values(), key=lambda point: point.throughput),
        law=curve,
        confidence=confidence(rounds, bound) if len(ordered) >= MIN_POINTS_OF_A_LAW else None,
        misfit=misfit(curve, {slots: point.throughput for slots, point in ordered.items()}),
        ceiling=ceiling(ordered),
    )


def recommend(results: Sequence[PoolResult], limits: NodeLimits, precision: float) -> Recommendation:
    """Recommend a pool and its slots.

    Among pools whose knees are within `ALIKE` of the fastest, the one with the least memory is chosen. There is no
    recommendation if no point keeps the limits, or if the deciding figures are too noisy.

    Args:
        results: The result of each pool.
        limits: Limits that the recommendation must keep.
        precision: Maximum relative error of the deciding figures, as a share to each side.
    """
    candidates = [(result, result.knee) for result in results if result.knee is not None]
    if not candidates:
        return Recommendation(None, ("no number of slots keeps the limits, not even the smallest one tried",))
    fastest = max(knee.throughput for _, knee in candidates)
    chosen, _ = min(
        ((result, knee) for result, knee in candidates if knee.throughput >= (1 - ALIKE) * fastest),
        key=lambda pair: pair[1].usage.memory_bytes,
    )
    if refusals := _noise(chosen, limits, precision):
        return Recommendation(None, refusals)
    return Recommendation(chosen, notes=tuple(_notes(chosen, limits)))


def gain_of_prefetch(point: Measurement, ahead: Measurement) -> float | None:
    """Return the relative gain of a larger prefetch; None if it is below `ALIKE` or within the error.

    Args:
        point: Measured with the queue's prefetch.
        ahead: Measured with the larger prefetch, and the same pool and slots.
    """
    gain = ahead.throughput / point.throughput - 1
    return gain if gain >= max(ALIKE, point.error + ahead.error) else None


def _noise(result: PoolResult, limits: NodeLimits, precision: float) -> tuple[str, ...]:
    """Describe the figures that are too uncertain to decide."""
    return tuple(
        f"{result.pool} -c {point.slots}: the throughput is known to ±{_percent(point.error)} after "
        f"{len(point.throughputs)} rounds, ±{_percent(precision)} are needed: the machine is not quiet, or the "
        f"task's time varies too much; free the machine, or use longer rounds"
        for point in undecided(result.points, limits, precision)
    )


def _notes(result: PoolResult, limits: NodeLimits) -> list[str]:
    notes = []
    if broken := limits.broken_by(result.best):
        notes.append(
            f"without the limit of {broken} -c {result.best.slots} gave {result.best.throughput:.0f} a second"
        )
    if result.misfit > CORNER:
        notes.append(
            f"the law misses a point by {_percent(result.misfit)}: the curve has a corner, such as a hard limit; "
            f"the knee is taken from the measured points"
        )
    if result.ceiling is Ceiling.BOUND and not broken and max(result.points) != limits.connections:
        notes.append(f"it may have more to give beyond -c {max(result.points)}: raise --max-concurrency")
    return notes


def _percent(share: float) -> str:
    return "∞" if math.isinf(share) else f"{100 * share:.0f} %"
