"""The Universal Scalability Law, fitted to measured points without a library for it.

    X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1))

(Gunther, "Guerrilla Capacity Planning", chapter 4). The other way round, n / X is linear in three unknowns: least
squares has one answer and needs no start values: numpy and scipy would weigh 60 MB for three equations.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.tuning.measurement import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KNEE_SHARE = 0.95
"""The knee is the smallest number of slots that gives at least this share of the best throughput."""

RESAMPLES = 200
"""Fits of the bootstrap; 95 % of them lie in the interval that is told."""

_COLUMNS = ((0,), (0, 1), (0, 2), (0, 1, 2))
"""Which of rate, contention and coherency a fit uses; those left out are 0, as none may be negative."""

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ScalabilityCurve:
    """One curve.

    Attributes:
        rate: Tasks a second of a single slot.
        contention: The share of the work that must queue for something that all slots share; 0 is none.
        coherency: The cost of each pair of slots that disturb one another; above 0 the curve has a peak.
    """

    rate: float
    contention: float
    coherency: float

    def throughput(self, slots: float) -> float:
        """Return the tasks a second that it expects."""
        waiting = self.contention * (slots - 1) + self.coherency * slots * (slots - 1)
        return self.rate * slots / (1 + waiting)

    @property
    def peak_slots(self) -> float:
        """Where the curve is highest, sqrt((1 - contention) / coherency); infinite if it never falls."""
        if self.contention >= 1:
            return 1.0
        return math.inf if self.coherency < _TINY else max(1.0, math.sqrt((1 - self.contention) / self.coherency))

    def knee(self, bound: int, share: float = KNEE_SHARE) -> int:
        """Return the fewest slots, of 1..bound, that give ``share`` of the best of 1..bound."""
        top = int(min(self.peak_slots, bound))
        top = max((top, min(top + 1, bound)), key=self.throughput)
        wanted = share * self.throughput(top)
        low, high = 1, top  # below its peak the curve only rises
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.throughput(middle) >= wanted else (middle + 1, high)
        return low


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a fit is: each interval holds 95 % of the fits to resampled rounds.

    Attributes:
        rate: Of `ScalabilityCurve.rate`.
        contention: Of `ScalabilityCurve.contention`.
        coherency: Of `ScalabilityCurve.coherency`.
        knee: Of the knee, in slots.
    """

    rate: Interval
    contention: Interval
    coherency: Interval
    knee: Interval


def fit_law(throughputs: Mapping[int, float]) -> ScalabilityCurve:
    """Return the law nearest to measured throughputs, by least squares of the relative errors.

    Args:
        throughputs: Tasks a second by number of slots; one point fixes the rate only, two one parameter more.

    Raises:
        ValueError: No point, or a throughput that is not positive.
    """
    if not throughputs or min(throughputs.values()) <= 0:
        raise ValueError(f"a law needs positive throughputs, got {dict(throughputs)!r}")
    rows = [_row(slots, throughput) for slots, throughput in throughputs.items()]
    fits = [_solve(rows, columns) for columns in _COLUMNS if len(columns) <= len(rows)]
    _, (base, linear, square) = min(fit for fit in fits if fit is not None)
    return ScalabilityCurve(rate=1 / base, contention=linear / base, coherency=square / base)


def misfit(law: ScalabilityCurve, throughputs: Mapping[int, float]) -> float:
    """Return the largest relative distance of a point from the curve: 0.1 is ten per cent."""
    return max(abs(law.throughput(slots) / throughput - 1) for slots, throughput in throughputs.items())


def confidence(rounds: Mapping[int, Sequence[float]], bound: int) -> Confidence:
    """Return how far the fit moves if each point's rounds are drawn anew from those measured (bootstrap).

    Args:
        rounds: The throughput of each round by number of slots.
        bound: The most slots that the knee may have.
    """
    dice = random.Random(0)  # noqa: S311 - the same answer for the same figures, nothing secret
    laws = [
        fit_law(
            {slots: sum(dice.choices(values, k=len(values))) / len(values) for slots, values in rounds.items()}
        )
        for _ in range(RESAMPLES)
    ]
    return Confidence(
        Interval.middle([law.rate for law in laws]),
        Interval.middle([law.contention for law in laws]),
        Interval.middle([law.coherency for law in laws]),
        Interval.middle([float(law.knee(bound)) for law in laws]),
    )


def _row(slots: int, throughput: float) -> tuple[float, float, float]:
    """Return the equation of one point, divided by its left side: relative errors count alike everywhere."""
    cost = slots / throughput
    return 1 / cost, (slots - 1) / cost, slots * (slots - 1) / cost


def _solve(
    rows: Sequence[tuple[float, float, float]], columns: Sequence[int]
) -> tuple[float, tuple[float, float, float]] | None:
    """Return the squared error and the three parameters, None if they are undetermined or negative."""
    scale = {column: math.sqrt(sum(row[column] ** 2 for row in rows)) for column in columns}
    if min(scale.values()) < _TINY:
        return None
    scaled = [[row[column] / scale[column] for column in columns] for row in rows]
    matrix = [
        [*(sum(a[i] * a[j] for a in scaled) for j in range(len(columns))), sum(a[i] for a in scaled)]
        for i in range(len(columns))
    ]
    solved = _eliminate(matrix)
    if solved is None or min(solved) < 0 or solved[0] < _TINY:
        return None
    error = sum((1 - sum(a * x for a, x in zip(row, solved, strict=True))) ** 2 for row in scaled)
    found = {column: value / scale[column] for column, value in zip(columns, solved, strict=True)}
    return error, (found[0], found.get(1, 0.0), found.get(2, 0.0))


def _eliminate(matrix: list[list[float]]) -> list[float] | None:
    """Return the solution of a small linear system, its right side the last column (Gauss, with pivots)."""
    size = len(matrix)
    for step in range(size):
        pivot = max(range(step, size), key=lambda row: abs(matrix[row][step]))
        matrix[step], matrix[pivot] = matrix[pivot], matrix[step]
        if abs(matrix[step][step]) < _TINY:
            return None
        for row in range(size):
            if row != step:
                factor = matrix[row][step] / matrix[step][step]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[step], strict=True)]
    return [matrix[row][size] / matrix[row][row] for row in range(size)]
