"""The only polling in the tests: a condition, a deadline, and words for what was waited for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_SECONDS = 0.05
_PATIENCE = 3
"""How many times a deadline is granted: the machine may be busy, and longer waits cost only what fails anyway."""

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], deadline_seconds: float, what: str) -> Value:
    """Call ``condition`` until what it returns is true, and return that; an exception in it ends the wait.

    Args:
        condition: What is waited for.
        deadline_seconds: How long it takes at most on a machine with nothing else to do.
        what: Words for it.

    Raises:
        AssertionError: It was not true in time; the text says ``what`` was waited for, and the last value.
    """
    patience_seconds = deadline_seconds * _PATIENCE
    give_up = time.monotonic() + patience_seconds
    while not (value := condition()):
        if time.monotonic() >= give_up:
            raise AssertionError(f"waited {patience_seconds:g} s for {what}; the last value was {value!r}")
        time.sleep(_PAUSE_SECONDS)
    return value
