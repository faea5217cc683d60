"""Search for the knee: double the slots until throughput stops rising, then refine the peak, then the knee.

The knee is taken from measured points, not from the fitted law: a limit such as "20 downstream connections" is a
sharp corner in the curve that the law smooths out.
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
"""A doubling must raise throughput by this factor to count as a gain; two without a gain end the doubling."""

RESOLUTION = 0.1
"""The knee is found when the next smaller measured slot count is at most this share away."""

_FUTILE_STEPS = 2
_WHOLE_DOUBLING = 1.9


def next_slots(points: Mapping[int, Measurement], bound: int, limits: NodeLimits) -> int | None:
    """Return the slot count to measure next, None when the search is complete.

    Args:
        points: The pool's measurements, by slots.
        bound: Maximum slot count.
        limits: A point that exceeds a limit ends the doubling.
    """
    return _upwards(points, bound, limits) or _topping(points, limits) or _narrowing(points, limits)


def knee_of(points: Mapping[int, Measurement], limits: NodeLimits) -> Measurement | None:
    """Return the point with the fewest slots that reaches `KNEE_SHARE` of `best_of`, if any."""
    best = best_of(points, limits)
    if best is None:
        return None
    enough = (point for point in _allowed(points, limits) if point.throughput >= KNEE_SHARE * best.throughput)
    return min(enough, key=lambda point: point.slots)


def best_of(points: Mapping[int, Measurement], limits: NodeLimits) -> Measurement | None:
    """Return the point with the best throughput within the limits, if any."""
    return max(_allowed(points, limits), key=lambda point: point.throughput, default=None)


def undecided(points: Mapping[int, Measurement], limits: NodeLimits, precision: float) -> list[Measurement]:
    """Return the points whose uncertainty could change the knee; while there are any, nothing is recommended.

    Among points with an error above ``precision``, these are the best point, the knee, points with fewer slots
    that may reach the knee's share, and other points that may be so much better that the knee would fall short.
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
    """Return a slot count between the best point and a neighbour, where the peak may lie up to 5 % higher.

    A curve that still rises at its last point has its peak there.
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
    """Return the second best throughput within the limits, or 0."""
    return sorted((0.0, 0.0, *(point.throughput for point in _allowed(points, limits))))[-2]


def _narrowing(points: Mapping[int, Measurement], limits: NodeLimits) -> int | None:
    knee, best = knee_of(points, limits), best_of(points, limits)
    if knee is None or best is None:
        return None
    most = max(point.slots for point in _allowed(points, limits))
    broken = [slots for slots in points if slots > most]
    if knee.slots == most and broken:  # the limit cuts off a rising curve
        return _between(knee.slots, min(broken))
    below = [slots for slots in points if slots < knee.slots]
    if not below:
        return None
    low = points[max(below)]
    guess = _guess(low, knee, KNEE_SHARE * best.throughput)
    return guess if _is_apart(low.slots, knee.slots) and guess not in points else None


def _guess(low: Measurement, high: Measurement, wanted: float) -> int:
    """Estimate where a concave curve reaches the wanted throughput between two measured points.

    The curve lies below the line from the origin through the lower point, and above the chord of the two points.
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
