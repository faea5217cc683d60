"""Measured and recommended numbers of slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tuned_points import point, points, usage

from broker_app.tuning.limits import Ceiling, NodeLimits, ceiling
from broker_app.tuning.recommendation import gain_of_prefetch, judge_pool, recommend
from broker_app.tuning.scalability import ScalabilityCurve
from broker_app.tuning.search import knee_of, next_slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker_app.tuning.measurement import Measurement

NO_LIMITS = NodeLimits()


def search(
    rule: Callable[[int], Measurement], bound: int, limits: NodeLimits = NO_LIMITS
) -> dict[int, Measurement]:
    """Measure as the program does, with a rule in the place of workers."""
    found: dict[int, Measurement] = {}
    while (slots := next_slots(found, bound, limits)) is not None:
        assert slots not in found
        found[slots] = rule(slots)
    return found


@settings(max_examples=30)
@given(st.floats(0.0, 0.2), st.floats(0.0, 0.005), st.integers(1, 200))
@example(0.00390625, 0.001953125, 32)  # its top lies between 16 and 32, which are 5 % below it
def test_the_search_finds_the_knee_of_any_law(contention: float, coherency: float, bound: int) -> None:
    """The recommendation has 95 % of the best of all numbers of slots, nearly, with few numbers tried."""
    law = ScalabilityCurve(20.0, contention, coherency)

    found = search(lambda slots: point(slots, law.throughput(slots)), bound)

    knee = knee_of(found, NO_LIMITS)
    assert knee is not None
    assert knee.throughput >= 0.9 * max(law.throughput(slots) for slots in range(1, bound + 1))
    assert len(found) <= 15


@settings(max_examples=30)
@given(st.integers(1, 100))
def test_the_search_finds_a_corner(connections: int) -> None:
    """With a downstream that serves so many at once, the slots are within ten per cent of that, or one off."""
    found = search(lambda slots: point(slots, 20.0 * min(slots, connections)), 256)

    knee = knee_of(found, NO_LIMITS)
    assert knee is not None
    assert 0.95 * connections <= knee.slots <= max(1.1 * connections, connections + 1)


def test_a_limit_is_kept_and_neared() -> None:
    """Of a curve that still rises the recommendation uses nearly what the limit allows, and no more."""
    limits = NodeLimits(memory_bytes=300 * 2**20)

    found = search(lambda slots: point(slots, 20.0 * slots, used=usage(memory=60 + 10 * slots)), 256, limits)

    knee = knee_of(found, limits)
    assert knee is not None
    assert 20 <= knee.slots <= 24


def test_limits_name_what_is_broken() -> None:
    """A point over several limits names each; one within them none."""
    limits = NodeLimits(memory_bytes=2**20, connections=8, latency_seconds=0.1)

    assert limits.broken_by(point(16, 1.0, latency=0.2)) == "memory, connections, latency"
    assert NodeLimits(2**40, 16, 0.2).broken_by(point(16, 1.0, latency=0.2)) == ""


def test_nothing_is_recommended_on_noise() -> None:
    """If the rounds of the deciding figures lie too far apart, nothing is recommended, and the reason is said."""
    quiet = judge_pool(points(lambda n: 20.0 * min(n, 8), (1, 2, 4, 8, 16, 32)), NO_LIMITS, 64)
    noisy = judge_pool(points(lambda n: 20.0 * min(n, 8), (1, 2, 4, 8, 16, 32), noise=0.2), NO_LIMITS, 64)

    assert recommend([quiet], NO_LIMITS, 0.05).point == quiet.points[8]
    refused = recommend([noisy], NO_LIMITS, 0.05)
    assert refused.point is None
    assert "threads -c 8: the throughput is known to ±50 %" in refused.refusals[0]


def test_nothing_is_recommended_that_breaks_a_limit() -> None:
    """If not even one slot keeps the limits, that is said."""
    limits = NodeLimits(latency_seconds=0.01)
    result = judge_pool(points(lambda n: 20.0 * n, (1,), latency=0.05), limits, 64)

    found = recommend([result], limits, 0.05)

    assert found.point is None
    assert "keeps the limits" in found.refusals[0]


@pytest.mark.parametrize(
    ("throughput", "noise", "gain"),
    [(104.0, 0.01, None), (112.0, 0.01, 0.12), (112.0, 0.05, None), (90.0, 0.01, None)],
)
def test_a_larger_prefetch_is_told_of_if_it_surely_helps(
    throughput: float, noise: float, gain: float | None
) -> None:
    """Less than five per cent, or less than the figures are uncertain, is nothing to tell."""
    found = gain_of_prefetch(point(8, 100.0, noise=noise), point(8, throughput, noise=noise))

    assert found == (None if gain is None else pytest.approx(gain))


def test_of_pools_that_are_alike_the_smaller_one_is_taken() -> None:
    """A pool that is a little faster and needs much more memory is not recommended; one much faster is."""
    threads = judge_pool(points(lambda n: 20.0 * min(n, 8), (1, 2, 4, 8, 16)), NO_LIMITS, 64)

    def prefork(rate: float) -> object:
        large = points(lambda n: rate * min(n, 8), (1, 2, 4, 8, 16), pool="prefork", used=usage(memory=900))
        return recommend([threads, judge_pool(large, NO_LIMITS, 64)], NO_LIMITS, 0.05).point

    assert getattr(prefork(20.5), "pool", None) == "threads"
    assert getattr(prefork(30.0), "pool", None) == "prefork"


@pytest.mark.parametrize(
    ("expected", "pool", "used", "run"),
    [
        (Ceiling.CPU, "prefork", usage(cpu=1.95, main=0.2, host=2.0), 0.1),
        (Ceiling.LOCK, "threads", usage(cpu=0.95, host=1.2), 0.1),
        (Ceiling.LOCK, "gevent", usage(cpu=0.95, host=1.2), 0.1),
        (Ceiling.MAIN, "prefork", usage(cpu=1.2, main=0.95, host=1.4), 0.05),
        (Ceiling.HOST, "threads", usage(cpu=0.4, host=1.95), 0.1),
        (Ceiling.DOWNSTREAM, "threads", usage(cpu=0.2), 0.1),
        (Ceiling.BROKER, "threads", usage(cpu=0.2), 0.05),
    ],
)
def test_what_limits_is_told_from_the_figures(expected: Ceiling, pool: str, used: object, run: float) -> None:
    """Each cause follows from processor, slots and run times at the most slots; see docs/how-to/tuning.md."""
    curve = points(lambda n: 20.0 * min(n, 8), (1, 8), pool=pool)
    curve[16] = point(16, 160.0, pool=pool, run=run, used=used)  # type: ignore[arg-type]

    assert ceiling(curve) is expected


def test_a_curve_that_still_rises_has_no_limit_yet() -> None:
    """If the last doubling brought a good part of itself, the bound was the limit."""
    assert ceiling(points(lambda n: 20.0 * n, (1, 2, 4))) is Ceiling.BOUND


def test_noise_beyond_a_limit_does_not_count() -> None:
    """A point that breaks a limit is never chosen, however uncertain it is; its higher throughput is mentioned."""
    limits = NodeLimits(connections=8)
    curve = points(lambda n: 20.0 * n, (1, 2, 4, 8)) | points(lambda n: 20.0 * n, (16,), noise=0.5)

    found = recommend([judge_pool(curve, limits, 16)], limits, 0.05)

    assert found.point == curve[8]
    assert found.notes == ("without the limit of connections -c 16 gave 320 a second",)


@pytest.mark.parametrize(("slots", "throughput"), [(4, 120.0), (16, 150.0)])
def test_a_point_that_may_be_as_good_decides_too(slots: int, throughput: float) -> None:
    """Fewer slots that may do, or more that may be far better, must be known before anything is recommended."""
    curve = points(lambda n: 20.0 * min(n, 8), (1, 2, 4, 8, 16))
    curve[slots] = point(slots, throughput, noise=0.2)

    refused = recommend([judge_pool(curve, NO_LIMITS, 64)], NO_LIMITS, 0.05)

    assert refused.point is None
    assert f"threads -c {slots}:" in refused.refusals[0]
