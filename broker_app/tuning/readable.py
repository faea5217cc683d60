"""Human-readable numbers and durations: no scientific notation and only significant digits."""

from __future__ import annotations

import math

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_MOST_PLACES = 6


def shown_number(number: float) -> str:
    """Return about three digits, such as ``0.27``, ``1.5``, ``34`` or ``12,300``."""
    if not math.isfinite(number):
        return "∞"
    places = _MOST_PLACES if number == 0 else 2 - math.floor(math.log10(abs(number)))
    text = f"{round(number, places):,.{max(0, min(places, _MOST_PLACES))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown_duration(seconds: float) -> str:
    """Return a duration in a suitable unit, such as ``35 ms``, ``2.4 s``, ``3 min 20 s`` or ``5 h 10 min``."""
    if seconds < 1:
        return f"{shown_number(1_000 * seconds)} ms"
    if seconds < 2 * _MINUTE:
        return f"{shown_number(seconds)} s"
    if seconds < _HOUR:
        return _in_two_units(round(seconds), "min", "s")
    if seconds < 2 * _DAY:
        return _in_two_units(round(seconds / _MINUTE), "h", "min")
    return f"{shown_number(seconds / _DAY)} days"


def _in_two_units(count: int, large: str, small: str) -> str:
    whole, rest = divmod(count, _MINUTE)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
