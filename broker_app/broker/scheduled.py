"""Scheduled tasks: counts by due time, from the depths of the delay lanes."""

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
"""Name and upper bound in seconds of each bucket."""

COUNT_SECONDS = 5.0
"""Interval at which a quorum queue reports its counts to the management API (``quorum_tick_interval``)."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The messages in the delay lanes.

    A lane's depth is exact when it is read. The lane gives a message's due time only to within one unit: a message
    in ``delay.2h`` leaves it within two hours and is due within 2 h 59 min 59 s. So a message counts towards the
    first bucket by whose end it is *certainly* due; it may be due sooner.

    Attributes:
        depths: Messages in each existing lane.
        held_up: Messages that have expired in a lane but cannot leave it, because the next queue is full or has no
            leader. They are not part of any depth. As of the broker's last count, up to `COUNT_SECONDS` ago; None
            if unknown.
        is_complete: True if every lane was found. Without the management API, day lanes beyond
            `delay_lanes.PROBED_DAYS` are not found, and ``held_up`` is unknown.
    """

    depths: dict[Lane, int]
    held_up: int | None
    is_complete: bool

    @property
    def total(self) -> int:
        """The number of scheduled tasks that are not due yet."""
        return sum(self.depths.values())

    def buckets(self) -> dict[str, int]:
        """Return the count of each bucket, in the order of `BUCKETS`."""
        counts = dict.fromkeys((name for name, _ in BUCKETS), 0)
        for lane, depth in self.depths.items():
            counts[_bucket(lane)] += depth
        return counts


def read_backlog(app: Broker) -> Backlog:
    """Read the depth of every lane from the broker.

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
    """Return every existing lane with its message counts as of the broker's last count.

    Raises:
        BrokerError: The management API does not answer, or refuses this user.
    """
    prefix = app.settings.prefix
    found = management_of(app).queue_counts(f"{prefix}delay.")
    counts = {}
    for name, count in found.items():
        with suppress(InvalidDelay):  # a queue whose name only begins like a lane's, or with another app's prefix
            lane = parse_lane(name.removeprefix(f"{prefix}delay."))
            if prefix + lane.name == name:
                counts[lane] = count
    return counts


def depths(connection: amqp.Connection, candidates: Iterable[Lane], names: Names) -> dict[Lane, int]:
    """Return the depth of each candidate lane that exists."""
    found = {lane: queue_depth(connection, names.lane(lane)) for lane in candidates}
    return {lane: depth for lane, depth in found.items() if depth is not None}


def _bucket(lane: Lane) -> str:
    latest = lane.milliseconds + UNITS[lane.level].milliseconds  # an exclusive bound: shorter lanes may follow
    return next(name for name, bound in BUCKETS if bound is None or latest <= bound * 1_000)
