"""Delay lanes on the broker: made before the first message needs them, and never while they are being removed."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from broker_app import topology
from broker_app.errors import BrokerLocked
from queues import Lane, Names, lane_topology, work_topology
from queues.delay import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import amqp

TRUST_SECONDS = 20.0
"""How long a lane that was seen is taken to be there. `broker_app.prune` relies on it: a message that was
published without another look stays a minute at least in its first lane before it needs the next."""

PROBED_DAYS = 60
"""How many day lanes are looked for where nothing tells which exist."""

_LOCK_PAUSE_SECONDS = 0.2


def ensure(
    connection: amqp.Connection, lanes: Iterable[Lane], seen: dict[Lane, float], prefix: str, deadline: float
) -> None:
    """Make sure of every lane on a way: a dead-lettered message that finds no lane is parked, and late.

    A lane that is there needs no right to configure.

    Args:
        connection: An open py-amqp connection.
        lanes: All lanes of the way.
        seen: When each lane was last seen, on the clock of `time.monotonic`; kept with the connection.
        prefix: Of the names on the broker.
        deadline: On the clock of `time.monotonic`.

    Raises:
        BrokerError: A lane is not there and may not be declared, or is there with other arguments.
    """
    now, names = time.monotonic(), Names(prefix)
    unsure = [lane for lane in lanes if now - seen.get(lane, -inf) > TRUST_SECONDS]
    absent = [lane for lane in unsure if not topology.has_queue(connection, names.lane(lane))]
    if absent:
        declare(connection, absent, prefix, deadline)
    seen.update((lane, now) for lane in unsure)


def declare(connection: amqp.Connection, lanes: Iterable[Lane], prefix: str, deadline: float) -> None:
    """Declare lanes and the exchanges around them, after waiting for a `prune` that is under way.

    Raises:
        BrokerLocked: A prune still held its lock at the deadline.
        BrokerError: Refused, or there with other arguments.
    """
    lanes = tuple(lanes)
    if not lanes:
        return
    wait_for_prune(connection, prefix, deadline)
    topology.declare(connection, work_topology([], prefix))
    topology.declare(connection, lane_topology(lanes, prefix))


def every(most_days: int = PROBED_DAYS) -> list[Lane]:
    """Return every lane of hours, minutes and seconds, and the first days'."""
    counts = (most_days, *(UNITS[level - 1][1] // UNITS[level][1] - 1 for level in range(1, len(UNITS))))
    return [Lane(level, count) for level, most in enumerate(counts) for count in range(1, most + 1)]


def wait_for_prune(connection: amqp.Connection, prefix: str, deadline: float) -> None:
    """Return when nobody removes lanes.

    Raises:
        BrokerLocked: Somebody still did at the deadline.
    """
    while True:
        try:
            topology.has_queue(connection, Names(prefix).prune_lock)
        except BrokerLocked:
            if time.monotonic() + _LOCK_PAUSE_SECONDS >= deadline:
                raise
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return
