"""The Universal Scalability Law, fitted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_app.tuning.measurement import relative_error
from broker_app.tuning.recommendation import CORNER
from broker_app.tuning.scalability import ScalabilityCurve, confidence, fit_law, misfit

SLOTS = (1, 2, 4, 8, 16, 32, 64)


@settings(max_examples=30)
@given(
    rate=st.floats(0.1, 1000),
    contention=st.floats(0, 0.5),
    coherency=st.one_of(st.just(0.0), st.floats(1e-6, 0.02)),
)
def test_known_parameters_are_recovered(rate: float, contention: float, coherency: float) -> None:
    """From points without noise the fit finds the parameters that they were made with."""
    law = ScalabilityCurve(rate, contention, coherency)

    found = fit_law({slots: law.throughput(slots) for slots in SLOTS})

    assert found.rate == pytest.approx(rate, rel=1e-3)
    assert found.contention == pytest.approx(contention, abs=1e-3)
    assert found.coherency == pytest.approx(coherency, abs=1e-4)


@settings(max_examples=30)
@given(st.dictionaries(st.integers(1, 200), st.floats(0.01, 5000), min_size=1, max_size=8))
def test_no_parameter_is_ever_negative(throughputs: dict[int, float]) -> None:
    """Whatever was measured, no fit says that slots help each other, which the law cannot mean."""
    law = fit_law(throughputs)

    assert law.rate > 0
    assert law.contention >= 0
    assert law.coherency >= 0


@settings(max_examples=30)
@given(st.floats(0.0, 0.3), st.one_of(st.just(0.0), st.floats(1e-5, 0.01)), st.integers(1, 300))
def test_the_knee_is_the_fewest_slots_with_95_per_cent_of_the_best(
    contention: float, coherency: float, bound: int
) -> None:
    """It equals what trying every number of slots finds."""
    law = ScalabilityCurve(20.0, contention, coherency)
    curve = {slots: law.throughput(slots) for slots in range(1, bound + 1)}
    wanted = 0.95 * max(curve.values())

    assert law.knee(bound) == min(slots for slots, value in curve.items() if value >= wanted)


def test_confidence_holds_the_truth() -> None:
    """With rounds that scatter by three per cent the intervals hold the true parameters."""
    law, dice = ScalabilityCurve(20.0, 0.02, 0.0004), random.Random(1)  # noqa: S311 - noise, no secret
    rounds = {slots: [law.throughput(slots) * dice.gauss(1, 0.03) for _ in range(6)] for slots in SLOTS}

    sure = confidence(rounds, 64)

    assert sure.rate.low <= 20.0 <= sure.rate.high
    assert sure.contention.low <= 0.02 <= sure.contention.high
    assert sure.coherency.low <= 0.0004 <= sure.coherency.high
    assert sure.knee.low <= law.knee(64) <= sure.knee.high


def test_a_corner_is_a_misfit() -> None:
    """A hard limit, which the law rounds off, shows as a distance from the curve; a smooth curve does not."""
    corner = {slots: 20.0 * min(slots, 20) for slots in SLOTS}
    smooth = {slots: ScalabilityCurve(20.0, 0.02, 0.0).throughput(slots) for slots in SLOTS}

    assert misfit(fit_law(corner), corner) > CORNER
    assert misfit(fit_law(smooth), smooth) < 0.001


@pytest.mark.parametrize("throughputs", [{}, {1: 0.0}, {1: 10.0, 2: -1.0}])
def test_a_law_of_nothing_is_refused(throughputs: dict[int, float]) -> None:
    """No point, or an invalid throughput, is an error and no curve."""
    with pytest.raises(ValueError, match="positive throughputs"):
        fit_law(throughputs)


@pytest.mark.parametrize(
    ("values", "error"),
    [([], float("inf")), ([10.0], float("inf")), ([10.0, 10.0], 0.0), ([9.0, 10.0, 11.0], 4.30 / 3**0.5 / 10)],
)
def test_the_error_is_half_of_students_interval(values: list[float], error: float) -> None:
    """One value is as uncertain as can be, equal values are certain, others by Student's t."""
    assert relative_error(values) == pytest.approx(error)
