"""By how much the broker grows when something is laid into it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.broker import Broker

_SETTLE_SECONDS = 120.0
_QUIET_SECONDS = 12.0  # longer than two statistics intervals of RabbitMQ (5 s)
_QUIET_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth in bytes; ``disk`` is None if it is not accessible."""

    memory: float
    disk: float | None

    def per(self, count: int) -> Growth:
        """Return the share of each of ``count`` things."""
        return Growth(self.memory / count, None if self.disk is None else self.disk / count)


def growth(broker: Broker, lay: Callable[[], None]) -> Growth:
    """Return what came with ``lay``, on a broker that is quiet before and after."""
    memory, disk = _settled(broker)
    lay()
    memory_after, disk_after = _settled(broker)
    return Growth(memory_after - memory, None if disk is None or disk_after is None else disk_after - disk)


def _settled(broker: Broker) -> tuple[int, int | None]:
    """Return memory and disk in bytes once the memory has stopped changing, or at a bound."""
    give_up = time.monotonic() + _SETTLE_SECONDS
    memory, before = broker.management.memory_bytes(), 0
    while abs(memory - before) > _QUIET_SHARE * memory and time.monotonic() < give_up:
        time.sleep(_QUIET_SECONDS)
        memory, before = broker.management.memory_bytes(), memory
    return memory, broker.disk_bytes() if broker.disk_bytes else None
