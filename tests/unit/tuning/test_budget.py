"""The duration of tuning, and a bound on it."""

from __future__ import annotations

import math

import pytest

from broker_app.tuning import SampleCall, TaskLoad, TrialEffort
from broker_app.tuning.budget import Budget, estimate, point_seconds
from broker_app.tuning.load import SIMULATED_TASK
from broker_app.tuning.sweep import busy_host


def test_longer_rounds_and_tasks_take_longer() -> None:
    """The estimate follows the length of a round and that of a simulated task."""
    short = TaskLoad((SampleCall(SIMULATED_TASK, (0.05, 0.0, 0.0)),))
    slow = TaskLoad((SampleCall(SIMULATED_TASK, (5.0, 1.0, 0.0)),))
    assert 15 < point_seconds(short, TrialEffort()) < 30
    assert point_seconds(short, TrialEffort(round_seconds=30)) > 100
    assert point_seconds(slow, TrialEffort()) > 60


def test_more_pools_and_slots_take_longer() -> None:
    """From four numbers of slots, or fewer, up to all doublings and some more."""
    assert estimate(1, 1, 20.0)[0] == 20
    assert estimate(1, 64, 20.0) == (80, 240)
    assert estimate(3, 64, 20.0) == (240, 720)


def test_the_time_is_shared_among_the_pools() -> None:
    """Each of those that are left has its part, and no number of slots is begun that would not end in time."""
    budget = Budget(seconds=90.0, each_seconds=20.0)
    third = budget.share(3)
    assert third - budget.begin == pytest.approx(30, abs=1)
    assert budget.allows(third)
    budget.took(40.0)
    assert not budget.allows(third)
    assert Budget(None, 20.0).share(2) == math.inf


def test_the_estimate_is_told_in_minutes() -> None:
    """With a bound below it the bound is shown."""
    assert "about 4 min to 12 min" in Budget(None, 20.0).words(3, 64)
    assert "up to 5 min (--minutes)" in Budget(300.0, 20.0).words(3, 64)


def test_a_busy_host_is_told_before_anything_is_measured() -> None:
    """From a fifth of its cores on."""
    assert "other programs use 1.3 of its 2 cores" in busy_host(1.3, 2)
    assert busy_host(0.1, 2) == ""
