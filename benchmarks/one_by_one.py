"""Calls one after the other, as a producer makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of calls.

    Attributes:
        per_second: By the clock; most of it is waiting for the broker.
        cpu_microseconds: Of this process, for each call: what a busy machine disturbs least.
    """

    per_second: float
    cpu_microseconds: float


def pace(call: Callable[[], Any], count: int) -> Pace:
    """Call ``count`` times, one after the other, and return how quick it was."""
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return Pace(count / seconds, worked / count * 1e6)
