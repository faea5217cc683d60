"""The scheduled tasks by due time, read off the depths of the delay lanes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes
from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth
from broker_app.broker.management import management_of
from broker_app.errors import BrokerError
from broker_app.queues import InvalidDelay, Lane, Names
from broker_app.queues.delay import UNITS, parse_lane

if TYPE_CHECKING:
    from collections.abc import Iterable

    import amqp

    from broker_app.broker.access import Broker
    from broker_app.broker.management import MessageCounts

BUCKETS = (("1 minute", 60), ("10 minutes", 600), ("1 hour", 3_600), ("1 day", 86_400), ("later", None))
"""Name and upper bound in seconds."""

COUNT_SECONDS = 5.0
"""How often a quorum queue counts for the management API (RabbitMQ's ``quorum_tick_interval``)."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the lanes.

    A lane's depth is exact at the moment that it is asked. When a message is due follows from its lane only
    up to the rest of the unit: what stands in ``delay.2h`` leaves it within two hours and is due within 2 h 59 min
    59 s. So a message is counted in the first bucket by whose end it is due *for certain*; it may be due sooner.

    Attributes:
        depths: Messages by lane, only lanes that exist.
        held_up: Messages whose time in a lane is over, and that it cannot hand on: the next queue is full or has
            no leader. No depth shows them. As the broker last counted, up to `COUNT_SECONDS` ago; None if it is
            unknown.
        is_complete: Whether every lane was found; without the management API, day lanes beyond
            `lanes.PROBED_DAYS` are not, nor is ``held_up`` known.
    """

    depths: dict[Lane, int]
    held_up: int | None
    is_complete: bool

    @property
    def total(self) -> int:
        """All scheduled tasks that are not due yet."""
        return sum(self.depths.values())

    def buckets(self) -> dict[str, int]:
        """Return the count of each bucket, in the order of `BUCKETS`."""
        counts = dict.fromkeys((name for name, _ in BUCKETS), 0)
        for lane, depth in self.depths.items():
            counts[_bucket(lane)] += depth
        return counts


def read_backlog(app: Broker) -> Backlog:
    """Ask the broker for the depth of every lane.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    names = Names(app.settings.prefix)
    with connect(app) as connection:
        try:
            counts = count_lanes(app)
        except BrokerError:
            return Backlog(depths(connection, delay_lanes.every(), names), held_up=None, is_complete=False)
        held_up = sum(count.held for count in counts.values())
        return Backlog(depths(connection, sorted(counts), names), held_up, is_complete=True)


def count_lanes(app: Broker) -> dict[Lane, MessageCounts]:
    """Return every lane that there is, and what the broker last counted in it.

    Raises:
        BrokerError: The management API does not answer, or not to this user.
    """
    prefix = app.settings.prefix
    found = management_of(app).queue_counts(f"{prefix}delay.")
    counts = {}
    for name, count in found.items():
        with suppress(InvalidDelay):  # a queue that only begins like a lane, or stands under another app's prefix
            lane = parse_lane(name.removeprefix(f"{prefix}delay."))
            if prefix + lane.name == name:
                counts[lane] = count
    return counts


def depths(connection: amqp.Connection, candidates: Iterable[Lane], names: Names) -> dict[Lane, int]:
    """Return how many messages wait in each of the lanes that exist."""
    found = {lane: queue_depth(connection, names.lane(lane)) for lane in candidates}
    return {lane: depth for lane, depth in found.items() if depth is not None}


def _bucket(lane: Lane) -> str:
    latest = (
        lane.milliseconds + UNITS[lane.level].milliseconds
    )  # less than that: the shorter lanes that may follow
    return next(name for name, bound in BUCKETS if bound is None or latest <= bound * 1_000)
