"""Waiting for a condition, with a bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_SECONDS = 0.2


def wait_for(condition: Callable[[], bool], deadline_seconds: float, expected: Callable[[], str]) -> None:
    """Wait until a condition holds.

    Args:
        condition: Asked a few times a second.
        deadline_seconds: From now.
        expected: What is waited for and what there is instead, for the error.

    Raises:
        TimeoutError: It does not hold at the deadline.
    """
    give_up = time.monotonic() + deadline_seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"expected within {deadline_seconds:g} s: {expected()}")
        time.sleep(PAUSE_SECONDS)
