"""The tests' own stopwatch."""

from __future__ import annotations

import time

from stopwatch import Stopwatch


def test_a_wait_counts_and_a_restart_sets_it_to_0() -> None:
    """What sleeps is not starved: its time is measured."""
    watch = Stopwatch()
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        time.sleep(0.1)
    assert 0.1 < watch.seconds <= time.monotonic() - began + 0.01
    watch.restart()
    assert watch.seconds < 0.1
