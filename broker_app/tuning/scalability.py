"""Universal Scalability Law, fitted to measured points without a numerical library.

    X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1))

(Gunther, "Guerrilla Capacity Planning", chapter 4). Inverted, n / X is linear in three unknowns, so that least
squares has a unique solution and needs no initial values. numpy and scipy would add 60 MB for three equations.
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
"""The knee is the smallest slot count with at least this share of the best throughput."""

RESAMPLES = 200
"""Number of bootstrap fits; the reported interval holds 95 % of them."""

_COLUMNS = ((0,), (0, 1), (0, 2), (0, 1, 2))
"""Subsets of rate, contention and coherency to fit; the others are 0, because none may be negative."""

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ScalabilityCurve:
    """A fitted curve.

    Attributes:
        rate: Tasks per second of a single slot.
        contention: Share of the work that waits for a shared resource, from 0.
        coherency: Cost of the interference between each pair of slots; above 0 the curve has a peak.
    """

    rate: float
    contention: float
    coherency: float

    def throughput(self, slots: float) -> float:
        """Return the predicted tasks per second."""
        waiting = self.contention * (slots - 1) + self.coherency * slots * (slots - 1)
        return self.rate * slots / (1 + waiting)

    @property
    def peak_slots(self) -> float:
        """Slot count at the peak, sqrt((1 - contention) / coherency); infinite if the curve never falls."""
        if self.contention >= 1:
            return 1.0
        return math.inf if self.coherency < _TINY else max(1.0, math.sqrt((1 - self.contention) / self.coherency))

    def knee(self, bound: int, share: float = KNEE_SHARE) -> int:
        """Return the fewest slots in 1..bound with ``share`` of the best throughput in that range."""
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
    """Confidence of a fit: each interval holds 95 % of the fits to resampled rounds.

    Attributes:
        rate: Interval of `ScalabilityCurve.rate`.
        contention: Interval of `ScalabilityCurve.contention`.
        coherency: Interval of `ScalabilityCurve.coherency`.
        knee: Interval of the knee, in slots.
    """

    rate: Interval
    contention: Interval
    coherency: Interval
    knee: Interval


def fit_law(throughputs: Mapping[int, float]) -> ScalabilityCurve:
    """Fit the law to measured throughputs by least squares of the relative errors.

    Args:
        throughputs: Tasks per second by slot count. One point determines only the rate, two points one more
            parameter.

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
    """Return the largest relative distance of a point from the curve: 0.1 means 10 %."""
    return max(abs(law.throughput(slots) / throughput - 1) for slots, throughput in throughputs.items())


def confidence(rounds: Mapping[int, Sequence[float]], bound: int) -> Confidence:
    """Return the confidence of the fit, by resampling each point's rounds (bootstrap).

    Args:
        rounds: The throughput of each round, by slot count.
        bound: Maximum slots of the knee.
    """
    dice = random.Random(0)  # noqa: S311 - reproducible; not security-relevant
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
    """Return the equation of one point divided by its left side, so that errors are relative."""
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
    """Solve a small linear system by Gaussian elimination with pivoting; the last column is the right side."""
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
