"""Which number of slots is measured next: doubling until nothing is gained, then the top, then the knee.

The law says what to expect; the knee itself is taken from measured points, because a limit such as "20 connections
downstream" is a corner in the curve that the law rounds off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from broker_app.tuning.scalability import KNEE_SHARE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.tuning.limits import NodeLimits
    from broker_app.tuning.measurement import Measurement

GAIN = 1.05
"""A doubling that brings less than this is no gain; after two such the pool is measured to its end."""

RESOLUTION = 0.1
"""The knee is known when the next smaller measured number is at most this share away."""

_FUTILE_STEPS = 2
_WHOLE_DOUBLING = 1.9


def next_slots(points: Mapping[int, Measurement], bound: int, limits: NodeLimits) -> int | None:
    """Return the number of slots to measure next, None when the pool is known.

    Args:
        points: What was measured of this pool, by slots.
        bound: The most slots that may be tried.
        limits: A point that breaks one ends the way up.
    """
    return _upwards(points, bound, limits) or _topping(points, limits) or _narrowing(points, limits)


def knee_of(points: Mapping[int, Measurement], limits: NodeLimits) -> Measurement | None:
    """Return the point of the fewest slots with `KNEE_SHARE` of the best throughput within the limits, if any."""
    best = best_of(points, limits)
    if best is None:
        return None
    enough = (point for point in _allowed(points, limits) if point.throughput >= KNEE_SHARE * best.throughput)
    return min(enough, key=lambda point: point.slots)


def best_of(points: Mapping[int, Measurement], limits: NodeLimits) -> Measurement | None:
    """Return the point of the best throughput within the limits, if any."""
    return max(_allowed(points, limits), key=lambda point: point.throughput, default=None)


def undecided(points: Mapping[int, Measurement], limits: NodeLimits, precision: float) -> list[Measurement]:
    """Return the points whose uncertainty could change the knee: nothing may be recommended while there are any.

    Of those that are not known to ``precision``: the best and the knee themselves, fewer slots that may reach what
    the knee needs, and other slots that may be so much better that the knee is not enough.
    """
    best, knee = best_of(points, limits), knee_of(points, limits)
    if best is None or knee is None:
        return []
    wanted = {True: KNEE_SHARE * best.throughput, False: best.throughput / KNEE_SHARE}
    return [
        point
        for point in sorted(_allowed(points, limits), key=lambda point: -point.throughput)
        if point.error > precision
        and (point in (best, knee) or point.throughput * (1 + point.error) >= wanted[point.slots < knee.slots])
    ]


def _allowed(points: Mapping[int, Measurement], limits: NodeLimits) -> list[Measurement]:
    return [point for point in points.values() if not limits.broken_by(point)]


def _upwards(points: Mapping[int, Measurement], bound: int, limits: NodeLimits) -> int | None:
    slots = 1
    best, futile = 0.0, 0
    while slots in points:
        point = points[slots]
        futile = futile + 1 if point.throughput < best * GAIN else 0
        best = max(best, point.throughput)
        if slots >= bound or futile >= _FUTILE_STEPS or limits.broken_by(point):
            return None
        slots = min(2 * slots, bound)
    return slots


def _topping(points: Mapping[int, Measurement], limits: NodeLimits) -> int | None:
    """Return the middle of a doubling beside the best point that may hold the top: both ends may be 5 % below it.

    A curve that still rises at its last point has its top there.
    """
    best = best_of(points, limits)
    if best is None or best.throughput >= GAIN * _second(points, limits):
        return None
    beside = [max((n for n in points if n < best.slots), default=None)]
    beside += [min((n for n in points if n > best.slots), default=None)]
    for slots in sorted((n for n in beside if n), key=lambda n: -points[n].throughput):
        low, high = sorted((slots, best.slots))
        if high >= _WHOLE_DOUBLING * low and _is_apart(low, high) and not limits.broken_by(points[high]):
            return round(math.sqrt(low * high))
    return None


def _second(points: Mapping[int, Measurement], limits: NodeLimits) -> float:
    """Return the second best throughput within the limits, 0 if there is none."""
    return sorted((0.0, 0.0, *(point.throughput for point in _allowed(points, limits))))[-2]


def _narrowing(points: Mapping[int, Measurement], limits: NodeLimits) -> int | None:
    knee, best = knee_of(points, limits), best_of(points, limits)
    if knee is None or best is None:
        return None
    most = max(point.slots for point in _allowed(points, limits))
    broken = [slots for slots in points if slots > most]
    if knee.slots == most and broken:  # the limit cuts off a curve that still rises
        return _between(knee.slots, min(broken))
    below = [slots for slots in points if slots < knee.slots]
    if not below:
        return None
    low = points[max(below)]
    guess = _guess(low, knee, KNEE_SHARE * best.throughput)
    return guess if _is_apart(low.slots, knee.slots) and guess not in points else None


def _guess(low: Measurement, high: Measurement, wanted: float) -> int:
    """Return where a curve that bends downwards has the wanted throughput, between two measured points.

    It lies above the straight line from the origin through the lower point, and below the chord of the two.
    """
    earliest = wanted / low.throughput * low.slots
    rise = high.throughput - low.throughput
    latest = low.slots + (wanted - low.throughput) / rise * (high.slots - low.slots)
    guess = math.ceil((earliest + max(latest, earliest)) / 2)
    return min(max(guess, low.slots + 1), high.slots - 1)


def _between(low: int, high: int) -> int | None:
    return (low + high) // 2 if _is_apart(low, high) else None


def _is_apart(low: int, high: int) -> bool:
    return high - low > max(1, RESOLUTION * high)
