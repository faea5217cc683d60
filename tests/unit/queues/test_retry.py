"""The wait of a failed task before its retry."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from broker_app.queues import Backoff
from broker_app.queues.delay import MAX_DELAY_SECONDS, split_delay
from broker_app.queues.retry import STEPS

BACKOFFS = st.builds(
    Backoff,
    max_retries=st.integers(0, 1_000),
    first_seconds=st.floats(0.001, 86_400),
    factor=st.floats(1, 100),
    longest_seconds=st.floats(0.001, 365 * 86_400),
    has_jitter=st.booleans(),
)


def test_nothing_is_retried_unless_somebody_asks_for_it() -> None:
    """The default makes no retry: running a task twice must be its author's wish."""
    assert Backoff().max_retries == 0


def test_the_documented_bounds() -> None:
    """1, 2, 4, … 512 s, and then 600 s for ever."""
    bounds = [Backoff().bound(retries) for retries in range(12)]
    assert bounds == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]


@given(backoff=BACKOFFS, retries=st.integers(0, 1_000), share=st.floats(0, 1))
def test_a_wait_is_within_its_bound_whatever_the_settings(backoff: Backoff, retries: int, share: float) -> None:
    """No wait is negative, longer than asked for by more than the rounding, or more than the lanes can hold."""
    wait = backoff.wait(retries, lambda low, high: low + share * (high - low))
    coarsest = STEPS[-1][1]
    assert 0 <= wait <= backoff.bound(retries) + coarsest / 2
    assert split_delay(wait).seconds <= MAX_DELAY_SECONDS
    assert math.isfinite(wait)


def test_jitter_is_full() -> None:
    """A wait may be anything up to its bound, and the mean is half of it; half a second is the least."""
    backoff = Backoff(first_seconds=8.0)
    waits = [backoff.wait(0) for _ in range(2_000)]
    assert 0.5 <= min(waits) < 0.7
    assert max(waits) > 7.5
    assert 3.5 < sum(waits) / len(waits) < 4.5


def test_without_jitter_a_wait_is_its_bound() -> None:
    """Then the waits are the numbers of the settings."""
    backoff = Backoff(first_seconds=0.5, factor=3, longest_seconds=20, has_jitter=False)
    assert [backoff.wait(retries) for retries in range(5)] == [0.5, 1.5, 4.5, 14.0, 20.0]


@given(st.floats(0, 600))
def test_all_waits_of_the_default_share_few_lanes(seconds: float) -> None:
    """A random wait is rounded so that no more than two lanes hold it, and some 80 hold them all."""
    wait = Backoff(first_seconds=600).wait(0, lambda _low, _high: seconds)
    lanes = split_delay(wait).lanes
    assert len(lanes) <= 2
    assert not split_delay(wait).fraction or split_delay(wait).fraction < 0.1
    assert {lane.word for lane in lanes if seconds > 60} <= {
        *(f"{minutes}m" for minutes in range(1, 11)),
        *(f"{tens}s" for tens in range(10, 60, 10)),
    }
