"""The only polling in the tests: a condition, a deadline and a description for the error."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE_SECONDS = 0.05
_PATIENCE = 3
"""Factor on every deadline: the machine may be busy, and only a failing test waits longer."""

Value = TypeVar("Value")


def wait_until(condition: Callable[..., Value | None], deadline_seconds: float, what: str) -> Value:
    """Call ``condition`` until it returns a true value, and return that value; its exceptions propagate.

    Args:
        condition: Called without arguments. ``...`` because mypy takes no lambda with bound defaults
            (``lambda number=number: …``) for a ``Callable[[], …]``.
        deadline_seconds: The longest wait on an idle machine.
        what: The subject of the wait, for the error.

    Raises:
        AssertionError: It was not true in time; the text names ``what`` and the last value.
    """
    patience_seconds = deadline_seconds * _PATIENCE
    give_up = time.monotonic() + patience_seconds
    while not (value := condition()):
        if time.monotonic() >= give_up:
            raise AssertionError(f"waited {patience_seconds:g} s for {what}; the last value was {value!r}")
        time.sleep(_PAUSE_SECONDS)
    return value
