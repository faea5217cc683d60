"""The wait of a queue's head, from counts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app.monitoring.oldest_wait import QueueEntries


def test_an_empty_queue_has_no_wait() -> None:
    """Nothing waits, whatever came and went."""
    entries = QueueEntries()
    assert [entries.oldest_wait(now, 0, now * 10) for now in range(5)] == [0.0] * 5


def test_what_stood_there_at_first_waits_since_then_at_least() -> None:
    """Before the first look nothing is known: what stood there then counts from then on."""
    entries = QueueEntries()
    assert entries.oldest_wait(100.0, 5, 0) == 0.0
    assert entries.oldest_wait(160.0, 5, 0) == 60.0
    assert entries.oldest_wait(200.0, 3, 2) == 100.0


def test_a_message_waits_from_between_the_looks_around_its_arrival() -> None:
    """The age of a message that arrived between two looks, and is not consumed, counts from about then."""
    entries = QueueEntries()
    entries.oldest_wait(0.0, 0, 7)
    entries.oldest_wait(10.0, 0, 7)
    assert 0.0 <= entries.oldest_wait(20.0, 1, 7) <= 10.0
    assert 100.0 <= entries.oldest_wait(120.0, 1, 7) <= 110.0


def test_a_queue_that_falls_behind() -> None:
    """With ten a second in and five a second out, the head is half as old as the time since the start."""
    entries = QueueEntries()
    for now in range(0, 101, 5):
        wait = entries.oldest_wait(float(now), now * 5, now * 5)
    assert wait == pytest.approx(50.0, abs=1.0)


def test_counts_that_start_anew() -> None:
    """After a purge, or a restart of the broker, what is there counts from the first look after it."""
    entries = QueueEntries()
    entries.oldest_wait(0.0, 100, 1_000)
    assert entries.oldest_wait(50.0, 3, 0) == 0.0
    assert entries.oldest_wait(60.0, 3, 0) == 10.0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=50))
def test_the_wait_is_never_off_by_more_than_the_time_between_two_looks(steps: list[tuple[int, int]]) -> None:
    """For a queue that is first in, first out, the estimate is within one step of the truth."""
    entries, waiting, left = QueueEntries(), [], 0
    for now, (arrive, leave) in enumerate(steps):
        waiting += [now] * arrive
        gone = min(leave, len(waiting))
        del waiting[:gone]
        left += gone
        estimate = entries.oldest_wait(float(now), len(waiting), left)
        truth = now - waiting[0] if waiting else 0
        assert estimate == pytest.approx(truth, abs=1 + 1e-6)
