"""The tests' own stopwatch."""

from __future__ import annotations

import time

from stopwatch import Stopwatch
from waiting import wait_until


def test_a_wait_counts() -> None:
    """A process that sleeps is not starved: its time is measured, and none that did not pass."""
    began = time.monotonic()
    watch = Stopwatch()
    wait_until(lambda: watch.seconds > 0.3, 10, "the time to be measured")
    assert watch.seconds <= time.monotonic() - began


def test_a_restart_sets_it_to_0() -> None:
    """Earlier measurements do not count any more."""
    watch = Stopwatch()
    wait_until(lambda: watch.seconds > 0.3, 10, "the time to be measured")
    began = time.monotonic()
    watch.restart()
    assert watch.seconds <= time.monotonic() - began
