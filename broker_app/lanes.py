"""Delay lanes on the broker: made before the first message needs them, and never while they are being removed."""

from __future__ import annotations

import time
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

from broker_app import topology
from broker_app.errors import BrokerLocked, BrokerRefused
from broker_app.queues import Lane, Names, lane_topology, work_topology
from broker_app.queues.delay import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import amqp

    from broker_app.queues import QueueSpec

TRUST_SECONDS = 20.0
"""How long a queue that was seen is taken to be there. `broker_app.prune` relies on it: a message that was
published without another look stays a minute at least in its first lane before it needs the next."""

PROBED_DAYS = 60
"""How many day lanes are looked for where nothing tells which exist."""

_LOCK_PAUSE_SECONDS = 0.2


def ensure(
    connection: amqp.Connection, lanes: Iterable[Lane], seen: dict[str, float], prefix: str, deadline: float
) -> None:
    """Make sure of every lane on a way: a dead-lettered message that finds no lane is parked, and late.

    A lane that is there needs no right to configure.

    Args:
        connection: An open py-amqp connection.
        lanes: All lanes of the way.
        seen: When each queue was last seen, on the clock of `time.monotonic`; kept with the connection.
        prefix: Of the names on the broker.
        deadline: On the clock of `time.monotonic`.

    Raises:
        BrokerError: A lane is not there and may not be declared, or is there with other arguments.
    """
    now, names = time.monotonic(), Names(prefix)
    unsure = [lane for lane in lanes if now - seen.get(names.lane(lane), -inf) > TRUST_SECONDS]
    absent = [lane for lane in unsure if not topology.has_queue(connection, names.lane(lane))]
    if absent:
        declare(connection, absent, prefix, deadline)
    seen.update((names.lane(lane), now) for lane in unsure)


def ensure_end(connection: amqp.Connection, spec: QueueSpec, seen: dict[str, float]) -> None:
    """Make sure of the queue at the end of a way: a lane takes a message, whether or not that queue is there.

    Args:
        connection: An open py-amqp connection.
        spec: The queue.
        seen: As `ensure`.

    Raises:
        BrokerError: It is not there and may not be declared.
    """
    now = time.monotonic()
    if now - seen.get(spec.broker_name, -inf) <= TRUST_SECONDS:
        return
    try:
        is_there = topology.has_queue(connection, spec.broker_name)
    except BrokerRefused:  # 4.3 does not tell who has no right on it: it may be there
        is_there = True
    if not is_there:
        topology.declare(connection, work_topology([spec], spec.prefix))
    seen[spec.broker_name] = now


def declare(connection: amqp.Connection, lanes: Iterable[Lane], prefix: str, deadline: float) -> None:
    """Declare lanes and the exchanges around them, after waiting for a `prune` that is under way.

    Should one have begun meanwhile, which may be removing what was just declared, it is done again after that.

    Raises:
        BrokerLocked: A prune still held its lock at the deadline.
        BrokerError: Refused, or there with other arguments.
    """
    lanes = tuple(lanes)
    is_sure = not lanes
    while not is_sure:
        wait_for_prune(connection, prefix, deadline)
        topology.declare(connection, work_topology([], prefix))
        topology.declare(connection, lane_topology(lanes, prefix))
        is_sure = not is_pruning(connection, prefix)


def every(most_days: int = PROBED_DAYS) -> list[Lane]:
    """Return every lane of the units below a day, and the first days'."""
    below = (longer.milliseconds // shorter.milliseconds - 1 for longer, shorter in pairwise(UNITS))
    counts = enumerate((most_days, *below))
    return [Lane(level, UNITS[level].step * number) for level, most in counts for number in range(1, most + 1)]


def wait_for_prune(connection: amqp.Connection, prefix: str, deadline: float) -> None:
    """Return when nobody removes lanes.

    Raises:
        BrokerLocked: Somebody still did at the deadline.
    """
    while is_pruning(connection, prefix):
        if time.monotonic() + _LOCK_PAUSE_SECONDS >= deadline:
            raise BrokerLocked("`broker-app topology prune` is at work; try again in a few seconds")
        time.sleep(_LOCK_PAUSE_SECONDS)


def is_pruning(connection: amqp.Connection, prefix: str) -> bool:
    """Return whether somebody removes lanes.

    Raises:
        BrokerRefused: The user may not know: RabbitMQ 4.3 wants any right on the lock.
    """
    try:
        return topology.has_queue(connection, Names(prefix).prune_lock)
    except BrokerLocked:
        return True
