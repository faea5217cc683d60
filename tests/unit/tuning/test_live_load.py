"""Load from the counts of workers: run times from a histogram, and turns from counts."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app import BrokerApp
from broker_app.tuning.live_load import TURNS, ObservedLoad, ObservedTask, take_turns
from broker_app.tuning.load import TaskLoad

BOUNDS = (0.01, 0.02, 0.05, 0.1)
counts = st.lists(st.integers(1, 10**9), min_size=1, max_size=5)


def ran(name: str, count: int, seconds: float = 0.05) -> ObservedTask:
    """Return a task that ran so often."""
    return ObservedTask(name, count, seconds, 0.2)


def test_the_mean_of_a_histogram_is_exact() -> None:
    """It is the sum by the count; runs of one bucket have no spread that can be told."""
    assert ObservedTask.of("a", BOUNDS, (0, 0, 4, 0, 0, 0.12)) == ObservedTask("a", 4, 0.03, 0.0)


@given(st.lists(st.integers(0, 10**6), min_size=5, max_size=5).filter(any), st.floats(0, 1e6))
def test_a_spread_is_a_share(numbers: list[int], total: float) -> None:
    """Whatever the counts, the jitter is accepted by a simulated task, and the total is complete."""
    task = ObservedTask.of("a", BOUNDS, (*numbers, total))

    assert 0 <= task.jitter <= 1
    assert task.count == sum(numbers)


def test_a_wider_histogram_has_more_jitter() -> None:
    """Runs that lie in distant buckets differ more than those in two neighbours."""
    near, far = (ObservedTask.of("a", BOUNDS, numbers) for numbers in ((0, 5, 5, 0, 0, 0.3), (5, 0, 0, 5, 0, 0.4)))

    assert near.jitter < far.jitter


@given(counts)
def test_tasks_take_turns_as_often_as_they_come(numbers: list[int]) -> None:
    """Each has a turn at least, and its share of them within half a turn otherwise."""
    tasks = [ran(str(number), count) for number, count in enumerate(numbers)]
    turns = take_turns(tasks)

    for task in tasks if len(tasks) > 1 else ():
        share = TURNS * task.count / sum(numbers)
        assert turns.count(task) == pytest.approx(max(1.0, share), abs=0.5)
    assert set(turns) == set(tasks)


def test_turns_are_spread() -> None:
    """A task that comes half of the time does not come ten times in a row."""
    first, second = ran("a", 500), ran("b", 500)

    assert take_turns([first, second]) == [first, second] * (TURNS // 2)


def test_a_task_that_ignores_its_result_is_simulated_so() -> None:
    """The cost of storing results does not count as the task's own computation."""
    tasks = (ObservedTask("kept", 1, 0.05, 0.0), ObservedTask("ignored", 1, 0.05, 0.0, ignore_result=True))
    observed = ObservedLoad("lopri", 20.0, tasks, 1, "threads", 8, 10.0, 0.1)

    load = TaskLoad(observed.calls(0.0))

    made = list(islice(load.signatures(BrokerApp("workload", set_as_current=False), "lopri"), 2))
    assert [call.options.get("ignore_result", False) for call in made] == [False, True]


def test_a_task_computes_no_longer_than_it_runs() -> None:
    """A task's mean computation is subtracted from its wait, as far as there is any."""
    tasks = (ran("long", 1, 0.05), ran("short", 1, 0.001))
    observed = ObservedLoad("lopri", 20.0, tasks, 1, "threads", 8, 10.0, 0.1)

    calls = observed.calls(0.002)

    assert calls[0].args == pytest.approx((0.048, 0.002, 0.2))
    assert calls[1].args == pytest.approx((0.0, 0.001, 0.2))
