"""Prune: remove unused delay lanes without losing a message that is in one or on its way to one.

RabbitMQ cannot delete a quorum queue "if empty" (540). Messages that a lane cannot forward because the next queue
is full do not show in its depth; only the management API counts them, with a lag. So a prune works in steps:

1. Find the empty lanes, and wait until the broker has counted again. A lane is a candidate if its depth and its
   count are 0, and so are those of all lanes of longer units: no message is in it or on its way to it.
2. Take a lock that producers wait for before they declare a lane, and wait until all declarations that began
   earlier have finished.
3. Unbind each candidate from the exchange that producers publish to, wait until routed messages have arrived, and
   look again. Lanes shorter than these steps are never removed, so any message published since the first look is
   still in its lane. Delete each candidate that is still empty, if all longer lanes are too. Bind the others
   again, and release the lock.
4. Wait until no producer relies on a remembered lane any more. If a longer lane now has messages, they were
   published in between: declare the removed lanes again. The messages need them after a minute at the earliest.

An interrupted prune loses nothing. The first producer that needs an unbound lane binds it again; a message of step
4 that finds no lane is parked.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes, scheduled
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, delete_queue, exclusive_queue, queue_depth, unbind_queue
from broker_app.errors import BrokerError, BrokerLocked
from broker_app.queues import Lane, Names, lane_topology
from broker_app.queues.delay import parse_lane
from broker_app.queues.topology import entry_binding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import amqp

    from broker_app.broker.access import Broker
    from broker_app.broker.management import MessageCounts

SHORTEST_HOP_SECONDS = 60.0
"""The shortest time in a lane that forwards to another lane: one minute."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PruneTimeouts:
    """Waiting times of a prune, in seconds.

    Attributes:
        count: Longer than the lag of the broker's counts: 5 s in the queue, and as much again in a busy cluster.
        declare: Longer than a producer takes from checking the lock to having declared its lanes.
        settle: Longer than a routed message takes to show in its queue's depth.
        trust: Longer than a producer relies on a lane that it has seen.
    """

    count: float = 2 * scheduled.COUNT_SECONDS + 2
    declare: float = 5.0
    settle: float = 2.0
    trust: float = delay_lanes.TRUST_SECONDS + 2

    @property
    def shortest_lane(self) -> float:
        """The shortest lane that may be removed holds its messages longer than this: 28.5 s by default."""
        return 1.5 * (self.count + self.declare + self.settle)


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The result of a prune.

    Attributes:
        removed: Lanes that were deleted.
        kept: Lanes that are or may be in use, that are too short, or that are in ``common_lanes``.
    """

    removed: tuple[Lane, ...]
    kept: tuple[Lane, ...]


_WAITS = PruneTimeouts()


def prune(app: Broker, *, is_dry_run: bool = False, waits: PruneTimeouts = _WAITS) -> PruneResult:
    """Remove the lanes that no message is in or on its way to.

    A prune takes most of a minute. For about eight seconds of it, producers that need a missing lane wait.

    Args:
        app: The app; its user needs the configure permission and the management API.
        is_dry_run: Only report what would be removed.
        waits: The waiting times; tests use shorter ones.

    Raises:
        BrokerError: No connection, no management API, no permission, or another prune holds the lock.
    """
    names = Names(app.settings.prefix)
    with connect(app) as connection:
        if not is_dry_run:
            with _lock(connection, names):
                pass  # fail now rather than after the waits
        first_look, empty = time.monotonic(), _look(app, connection)
    if not is_dry_run:
        time.sleep(waits.count)
    in_use = {lane: lane not in empty or count.total != 0 for lane, count in _count(app).items()}
    chosen = removable(in_use, _keep(app, waits))
    removed: tuple[Lane, ...] = ()
    if chosen and not is_dry_run:
        removed = _remove(app, chosen, first_look, waits)
        time.sleep(waits.trust)
        removed = _declare_needed(app, removed)
    gone = chosen if is_dry_run else removed
    return PruneResult(gone, tuple(lane for lane in sorted(in_use) if lane not in gone))


def removable(in_use: Mapping[Lane, object], keep: Collection[Lane] = ()) -> tuple[Lane, ...]:
    """Return the lanes that no message is in or on its way to, longest first.

    Args:
        in_use: Every lane, and whether it has messages.
        keep: Lanes to keep in any case.
    """
    longest = min((lane.level for lane, is_used in in_use.items() if is_used), default=None)
    free = (lane for lane, is_used in in_use.items() if not is_used and (longest is None or lane.level <= longest))
    return tuple(sorted(lane for lane in free if lane not in keep))


@contextmanager
def _lock(connection: amqp.Connection, names: Names) -> Iterator[None]:
    """Hold the lock that producers wait for before they declare a lane; it ends with the connection.

    Raises:
        BrokerLocked: Another prune holds it.
    """
    try:
        with exclusive_queue(connection, names.prune_lock):
            yield
    except BrokerLocked as error:
        raise BrokerLocked(
            "another `broker-app topology prune` is at work; try again when it has ended"
        ) from error


def _keep(app: Broker, waits: PruneTimeouts) -> set[Lane]:
    common = {parse_lane(word) for word in app.settings.common_lanes}
    return common | {lane for lane in delay_lanes.every(0) if lane.seconds <= waits.shortest_lane}


def _count(app: Broker) -> dict[Lane, MessageCounts]:
    try:
        return scheduled.count_lanes(app)
    except BrokerError as error:
        raise BrokerError(
            f"nothing is removed without the management API, which sees every lane: {error}"
        ) from error


def _look(app: Broker, connection: amqp.Connection) -> set[Lane]:
    """Return the lanes whose depth is 0 now."""
    found = scheduled.depths(connection, _count(app), Names(app.settings.prefix))
    return {lane for lane, depth in found.items() if not depth}


def _remove(app: Broker, chosen: Iterable[Lane], first_look: float, waits: PruneTimeouts) -> tuple[Lane, ...]:
    """Run steps 2 and 3; return the lanes that were removed."""
    prefix = app.settings.prefix
    names = Names(prefix)
    removed = []
    with connect(app) as connection, _lock(connection, names):
        time.sleep(waits.declare)
        for lane in chosen:
            unbind_queue(connection, entry_binding(lane, prefix))
        time.sleep(waits.settle)
        found = scheduled.depths(connection, _count(app), names)
        free = removable(found)
        for lane in chosen:
            is_sure = time.monotonic() - first_look < min(lane.seconds, SHORTEST_HOP_SECONDS)
            if lane in free and is_sure and queue_depth(connection, names.lane(lane)) == 0:
                delete_queue(connection, names.lane(lane))
                removed.append(lane)
            elif lane in found:
                declare_topology(connection, lane_topology([lane], prefix))
    logger.info("removed the unused delay lanes %s", ", ".join(map(names.lane, removed)))
    return tuple(removed)


def _declare_needed(app: Broker, removed: tuple[Lane, ...]) -> tuple[Lane, ...]:
    """Run step 4; return the lanes that stay removed."""
    settings = app.settings
    with connect(app) as connection:
        found = scheduled.depths(connection, _count(app), Names(settings.prefix))
        gone = removable(found | dict.fromkeys((lane for lane in removed if lane not in found), 0))
        again = [lane for lane in removed if lane not in gone]
        delay_lanes.declare(
            connection, again, settings.prefix, time.monotonic() + settings.publish.timeout_seconds
        )
    return tuple(lane for lane in gone if lane in removed and lane not in found)
