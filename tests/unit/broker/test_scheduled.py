"""The scheduled tasks by due time: what a lane's depth can honestly say."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from broker_app.broker.delay_lanes import PROBED_DAYS, every
from broker_app.broker.scheduled import BUCKETS, Backlog
from broker_app.queues import Lane, split_delay
from broker_app.queues.delay import MAX_DELAY_DAYS, MAX_DELAY_SECONDS, UNITS

BOUNDS = {name: math.inf if bound is None else bound for name, bound in BUCKETS}
EVERY_LANE = every(MAX_DELAY_DAYS)


def bucket(lane: Lane) -> str:
    """Return the bucket in which a message of a lane is counted."""
    (name,) = [name for name, count in Backlog({lane: 1}, 0, is_complete=True).buckets().items() if count]
    return name


def latest_seconds(lane: Lane) -> float:
    """Return the longest time after which a message that has just come into a lane can be due."""
    return lane.seconds + UNITS[lane.level].milliseconds / 1_000


@given(delay=st.floats(1, MAX_DELAY_SECONDS), passed=st.floats(0, 1, exclude_max=True))
def test_a_task_is_due_within_its_bucket(delay: float, passed: float) -> None:
    """Wherever a task is on its way, and however long already, it is due before its bucket ends."""
    lanes, fraction = split_delay(delay).lanes, split_delay(delay).fraction
    for place, lane in enumerate(lanes):
        left = lane.seconds * (1 - passed) + sum(after.seconds for after in lanes[place + 1 :]) + fraction
        assert left <= BOUNDS[bucket(lane)]


def test_no_bucket_is_later_than_need_be() -> None:
    """For every lane there are delays that an earlier bucket would belie."""
    names = [name for name, _ in BUCKETS]
    for lane in EVERY_LANE:
        place = names.index(bucket(lane))
        if place:
            assert latest_seconds(lane) > BOUNDS[names[place - 1]]


def test_the_buckets_split_at_the_units() -> None:
    """Seconds are within a minute; minutes, hours and days where their remainder may still reach."""
    expected = {"59s": "1 minute", "1m": "10 minutes", "9m": "10 minutes", "10m": "1 hour", "59m": "1 hour"}
    expected |= {"1h": "1 day", "23h": "1 day", "1d": "later", f"{MAX_DELAY_DAYS}d": "later"}
    found = {lane.word: bucket(lane) for lane in EVERY_LANE if lane.word in expected}
    assert found == expected


@given(st.dictionaries(st.sampled_from(EVERY_LANE), st.integers(0, 10**6)))
def test_each_task_is_counted_once(depths: dict[Lane, int]) -> None:
    """The buckets add up to the total, and all of them are named, in their order."""
    backlog = Backlog(depths, 0, is_complete=True)
    assert sum(backlog.buckets().values()) == backlog.total == sum(depths.values())
    assert list(backlog.buckets()) == [name for name, _ in BUCKETS]


def test_the_lanes_that_are_looked_for_without_the_management_api() -> None:
    """All lanes below a day, and those of the first days, each once."""
    lanes = every()
    assert len(set(lanes)) == len(lanes) == PROBED_DAYS + 23 + 59 + 59 + 9
    assert {"1d", "60d", "1h", "23h", "1m", "59m", "1s", "59s", "100ms", "900ms"} <= {lane.word for lane in lanes}
