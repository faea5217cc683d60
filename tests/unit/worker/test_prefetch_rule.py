"""The rule of `prefetch = "auto"`: more than one message for each slot only while tasks are short."""

from __future__ import annotations

import pytest

from broker_app.worker.prefetch_rule import (
    FIRST_PAUSE_SECONDS,
    LEAST_ENDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_WAIT_SECONDS,
    MAX_EXTRA_PER_SLOT,
    PERIOD_SECONDS,
    QUIET_PERIODS,
    STABLE_SECONDS,
    Load,
    PrefetchRule,
)

SLOTS = 10


class Clocked:
    """A rule with a clock; each period ends some tasks of a run time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rule = PrefetchRule(SLOTS, self.now)

    def period(self, run_seconds: float, ended: int = LEAST_ENDS, waited_seconds: float = 0.0) -> int:
        """Look once more, one period later."""
        self.now += PERIOD_SECONDS
        return self.rule.look(Load(ended, ended * run_seconds, waited_seconds), self.now)

    def return_all(self) -> None:
        """Let a message wait for too long."""
        assert self.period(0.05, waited_seconds=2 * LONGEST_WAIT_SECONDS) == 0

    def pause_seconds(self) -> float:
        """Return how long it takes until the worker may hold more again."""
        begun = self.now
        while not self.period(0.05):
            pass
        return self.now - begun


@pytest.mark.parametrize(
    ("run_seconds", "per_slot"),
    [(0.0, MAX_EXTRA_PER_SLOT), (0.001, MAX_EXTRA_PER_SLOT), (0.03, 3), (0.05, 2), (0.051, 1), (0.099, 1)],
)
def test_extra_messages_are_those_that_the_slots_finish_at_once(run_seconds: float, per_slot: int) -> None:
    """The shorter the tasks are, the more are held, up to a bound."""
    assert Clocked().period(run_seconds) == per_slot * SLOTS


@pytest.mark.parametrize("run_seconds", [0.101, 1.0, 600.0, float("inf")])
def test_long_tasks_are_held_one_for_each_slot(run_seconds: float) -> None:
    """No message waits for a slot whose task is long, or ends nobody knows when."""
    clocked = Clocked()
    assert [clocked.period(run_seconds) for _ in range(5)] == [0] * 5


def test_few_tasks_prove_nothing() -> None:
    """With few ends in a period, the others may be long."""
    clocked = Clocked()
    assert [clocked.period(0.001, ended=LEAST_ENDS - 1) for _ in range(5)] == [0] * 5


def test_a_quiet_worker_holds_one_for_each_slot_again() -> None:
    """After some periods with few tasks, the next ones are not known to be short."""
    clocked = Clocked()
    clocked.pause_seconds()
    found = [clocked.period(0.05, ended=0) for _ in range(QUIET_PERIODS)]
    assert all(found[:-1])
    assert found[-1] == 0


def test_a_message_that_waits_too_long_ends_it_at_once() -> None:
    """It is not for the end of the period to notice a long task."""
    clocked = Clocked()
    clocked.pause_seconds()
    assert clocked.rule.look(Load(0, 0.0, LONGEST_WAIT_SECONDS), clocked.now + 0.1)
    assert clocked.rule.look(Load(0, 0.0, LONGEST_WAIT_SECONDS + 0.1), clocked.now + 0.2) == 0


def test_longer_tasks_end_it() -> None:
    """Tasks that have become longer are returned, though none has waited too long yet."""
    clocked = Clocked()
    clocked.pause_seconds()
    assert clocked.period(0.5) == 0


def test_a_mix_does_not_flap() -> None:
    """The pause doubles with each return, up to its bound, and is short again after a stable time."""
    clocked = Clocked()
    pauses = []
    clocked.pause_seconds()
    for _ in range(12):
        clocked.return_all()
        pauses.append(clocked.pause_seconds())
    assert pauses[0] <= 2 * FIRST_PAUSE_SECONDS + PERIOD_SECONDS
    assert pauses == sorted(pauses)
    assert LONGEST_PAUSE_SECONDS <= pauses[-1] <= LONGEST_PAUSE_SECONDS + 2 * PERIOD_SECONDS
    clocked.now += STABLE_SECONDS
    clocked.return_all()
    assert clocked.pause_seconds() <= FIRST_PAUSE_SECONDS + PERIOD_SECONDS
