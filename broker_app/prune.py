"""Remove delay lanes that nobody uses, without losing a message that is on its way to one.

RabbitMQ cannot delete a quorum queue "if empty" (540), so it is done in steps, under a lock that producers
wait for before they declare a lane:

1. Take the lock, and wait until every declaration that began before it has ended.
2. Choose the lanes that are empty while all lanes of longer units are empty too: nothing is on its way to them.
3. Unbind each, so that nothing new comes in; delete it if it is still empty, else bind it again.
4. Wait until no producer trusts a lane from memory any more. If a longer lane is not empty now, somebody
   published in between: declare the removed ones again, long before the message needs them.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app import backlog, lanes, topology
from queues import Lane, Names, lane_topology, work_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    import amqp

    from broker_app.app import BrokerApp

DECLARE_SECONDS = 5.0
"""Longer than a declaration of lanes takes."""

SETTLE_SECONDS = 1.0
"""Longer than a message that was routed takes to show in its queue's depth."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did.

    Attributes:
        removed: Lanes that are gone.
        kept: Lanes that are in use, or may be.
    """

    removed: tuple[Lane, ...]
    kept: tuple[Lane, ...]


def prune(app: BrokerApp, *, is_dry_run: bool = False) -> Pruned:
    """Remove the lanes that no message is in or on its way to.

    It takes about half a minute, in which a producer that needs a lane that is not there waits.

    Args:
        app: The app; its user needs the right to configure.
        is_dry_run: Only tell what would go.

    Raises:
        BrokerError: No connection, no right, or another prune holds the lock.
    """
    prefix = app.settings.prefix
    names = Names(prefix)
    with topology.connect(app) as connection:
        found, _ = backlog.find_lanes(app)
        if is_dry_run:
            return _split(backlog.depths(connection, found, names))
        with _lock(connection, names):
            time.sleep(DECLARE_SECONDS)
            plan = _split(backlog.depths(connection, found, names))
            removed = _remove(connection, plan.removed, prefix)
            time.sleep(lanes.TRUST_SECONDS)
            again = _still_needed(backlog.depths(connection, found, names), removed)
            topology.declare(connection, work_topology([], prefix))
            topology.declare(connection, lane_topology(again, prefix))
    gone = tuple(lane for lane in removed if lane not in again)
    return Pruned(gone, tuple(lane for lane in (*plan.removed, *plan.kept) if lane not in gone))


def _split(depths: dict[Lane, int]) -> Pruned:
    """Choose what may go: empty, and every lane of a longer unit is empty."""
    longest = min((lane.level for lane, depth in depths.items() if depth), default=None)
    free = [lane for lane, depth in depths.items() if not depth and (longest is None or lane.level <= longest)]
    return Pruned(tuple(free), tuple(lane for lane in depths if lane not in free))


def _still_needed(depths: dict[Lane, int], removed: tuple[Lane, ...]) -> tuple[Lane, ...]:
    """Return the removed lanes to which a message may be on its way from a longer one."""
    longest = min((lane.level for lane, depth in depths.items() if depth), default=None)
    return tuple(lane for lane in removed if longest is not None and lane.level > longest)


def _remove(connection: amqp.Connection, chosen: tuple[Lane, ...], prefix: str) -> tuple[Lane, ...]:
    for binding in lane_topology(chosen, prefix).queue_bindings:
        topology.unbind(connection, binding)
    time.sleep(SETTLE_SECONDS)
    names = Names(prefix)
    empty = [lane for lane in chosen if topology.depth(connection, names.lane(lane)) == 0]
    topology.declare(connection, lane_topology([lane for lane in chosen if lane not in empty], prefix))
    for lane in empty:
        topology.delete_queue(connection, names.lane(lane))
        logger.info("removed the unused delay lane %s", names.lane(lane))
    return tuple(empty)


@contextmanager
def _lock(connection: amqp.Connection, names: Names) -> Iterator[None]:
    """Hold the lock: a queue that is exclusive to this connection, and gone with it."""
    with topology.exclusive_queue(connection, names.prune_lock):
        yield
