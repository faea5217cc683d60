"""Remove delay lanes that nobody uses, without losing a message that is in one or on its way to one.

RabbitMQ cannot delete a quorum queue "if empty" (540), and what a lane cannot hand on, since the next queue is
full, no depth shows: only the management API counts it, and late. So it is done in steps:

1. Look which lanes are empty, and wait until the broker has counted after that. A lane goes if it was empty, and
   was counted as empty, while all lanes of longer units were so too: nothing is in it or on its way to it.
2. Take a lock that producers wait for before they declare a lane, and wait until every declaration that began
   before has ended.
3. Unbind each chosen lane from where producers publish, wait until what was routed has arrived, and look again.
   What came since the first look is still in its lane, if that keeps it longer than all of this takes: shorter
   lanes are never removed. So a lane that is still empty, as all longer ones are, is deleted. Any other is bound
   again. Release the lock.
4. Wait until no producer trusts a lane from memory any more. If a longer lane is not empty now, somebody published
   in between: declare the removed ones again, long before the message needs them, which is a minute at least.

Ended at any point nothing is lost. A lane that was left unbound is bound again by the first producer that needs
it; a message of step 4 that finds no lane is parked.
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
"""How long a message stays at least in a lane that hands it on to another: that of one minute."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PruneTimeouts:
    """How long a prune waits for others, in seconds.

    Attributes:
        count: Longer than the broker's counts are behind: 5 s in the queue, and as much again in a busy cluster.
        declare: Longer than a producer takes from asking for the lock to having declared its lanes.
        settle: Longer than a message that was routed takes to show in its queue's depth.
        trust: Longer than a producer relies on a lane that it has seen.
    """

    count: float = 2 * scheduled.COUNT_SECONDS + 2
    declare: float = 5.0
    settle: float = 2.0
    trust: float = delay_lanes.TRUST_SECONDS + 2

    @property
    def shortest_lane(self) -> float:
        """A lane must hold its messages longer than this to be removed: with the defaults 28.5 s."""
        return 1.5 * (self.count + self.declare + self.settle)


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a prune did.

    Attributes:
        removed: Lanes that are gone.
        kept: Lanes that are in use, or may be, or are too short, or are the settings' common ones.
    """

    removed: tuple[Lane, ...]
    kept: tuple[Lane, ...]


_WAITS = PruneTimeouts()


def prune(app: Broker, *, is_dry_run: bool = False, waits: PruneTimeouts = _WAITS) -> PruneResult:
    """Remove the lanes that no message is in or on its way to.

    It takes most of a minute, in some eight seconds of which a producer waits that needs a lane that is not there.

    Args:
        app: The app; its user needs the right to configure, and the management API.
        is_dry_run: Only tell what would go.
        waits: Shorter ones are for tests.

    Raises:
        BrokerError: No connection, no management API, no right, or another prune holds the lock.
    """
    names = Names(app.settings.prefix)
    with connect(app) as connection:
        if not is_dry_run:
            with _lock(connection, names):
                pass  # refused now, and not after the waits
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
    """Return the lanes that nothing is in or on its way to, longest first.

    Args:
        in_use: Every lane, and whether anything is in it.
        keep: Lanes that stay in any case.
    """
    longest = min((lane.level for lane, is_used in in_use.items() if is_used), default=None)
    free = (lane for lane, is_used in in_use.items() if not is_used and (longest is None or lane.level <= longest))
    return tuple(sorted(lane for lane in free if lane not in keep))


@contextmanager
def _lock(connection: amqp.Connection, names: Names) -> Iterator[None]:
    """Hold what producers wait for before they declare a lane; gone with the connection.

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
    """Return the lanes that have no message now."""
    found = scheduled.depths(connection, _count(app), Names(app.settings.prefix))
    return {lane for lane, depth in found.items() if not depth}


def _remove(app: Broker, chosen: Iterable[Lane], first_look: float, waits: PruneTimeouts) -> tuple[Lane, ...]:
    """Take steps 2 and 3."""
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
    """Take step 4, and return the lanes that stay removed."""
    settings = app.settings
    with connect(app) as connection:
        found = scheduled.depths(connection, _count(app), Names(settings.prefix))
        gone = removable(found | dict.fromkeys((lane for lane in removed if lane not in found), 0))
        again = [lane for lane in removed if lane not in gone]
        delay_lanes.declare(
            connection, again, settings.prefix, time.monotonic() + settings.publish.timeout_seconds
        )
    return tuple(lane for lane in gone if lane in removed and lane not in found)
