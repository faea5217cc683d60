"""When a node that died is started again."""

from __future__ import annotations

from broker_app.fleet.restart_backoff import RestartBackoff


def test_the_wait_doubles_up_to_a_minute() -> None:
    """1, 2, 4, 8, 16, 32 and then 60 seconds, however often it dies."""
    backoff = RestartBackoff()
    waits = []
    for moment in range(40):
        backoff.ran(moment)
        waits.append(backoff.died(moment))
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == 60


def test_a_node_that_lived_for_a_minute_begins_anew() -> None:
    """Only deaths in a row make the wait longer."""
    backoff = RestartBackoff()
    for _ in range(5):
        backoff.died(0)
    backoff.ran(100)
    backoff.ran(159)
    assert backoff.died(160) == 1


def test_it_is_due_after_the_wait() -> None:
    """While it runs nothing is due."""
    backoff = RestartBackoff()
    backoff.died(10)
    assert backoff.due_at == 11
    backoff.ran(12)
    assert backoff.due_at is None
