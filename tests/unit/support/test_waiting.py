"""The tests' own waiting."""

from __future__ import annotations

import pytest
from waiting import wait_until


def test_returns_what_it_waited_for() -> None:
    """The first true value ends the wait and is returned."""
    values = iter([0, "", 7])
    assert wait_until(lambda: next(values), 5, "a number") == 7


def test_gives_up() -> None:
    """A wait that fails says what it waited for, and the last value."""
    with pytest.raises(AssertionError, match=r"waited 0 s for the queue to drain; the last value was \[\]"):
        wait_until(list, 0, "the queue to drain")
