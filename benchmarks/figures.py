"""Statistics of a row of measured values."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """Several values of one quantity.

    Attributes:
        median: The middle one.
        low: The smallest.
        high: The largest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value.

        Raises:
            ValueError: There is no value.
        """
        if not values:
            raise ValueError("a spread needs at least one value, got none")
        return cls(statistics.median(values), min(values), max(values))


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    """Return how many times ``second`` fits into ``first``: the spread of first[i] / second[i].

    The values of one round are measured side by side, so a temporary disturbance affects both.

    Raises:
        ValueError: Not the same number of values.
    """
    return Spread.of([a / b for a, b in zip(first, second, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of all values do not exceed (nearest rank).

    Args:
        values: At least one; any order.
        percent: 0..100.

    Raises:
        ValueError: No value, or not such a percentage.
    """
    if not values or not 0 <= percent <= 100:  # noqa: PLR2004 - per cent
        raise ValueError(f"a percentile needs values and 0..100, got {len(values)} values and {percent!r}")
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def shown(value: float) -> str:
    """Return a number with three significant digits, as a person writes it: ``7,680``, ``12.3``, ``0.0123``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def shown_spread(spread: Spread, unit: str = "") -> str:
    """Return the median and, in brackets, both ends, with a unit behind the median."""
    return f"{shown(spread.median)}{unit} ({shown(spread.low)}\u2013{shown(spread.high)})"
