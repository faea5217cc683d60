"""Topology plan: compare the settings with the broker, and create what is missing.

The management API lists arguments, bindings and undeclared queues. Without it the comparison uses AMQP alone: it
declares each existing queue again, and the broker only compares the arguments. Bindings and undeclared queues are
not visible that way, and the plan says so.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.broker import delay_lanes
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.broker.management import management_of
from broker_app.errors import BrokerError, CallError, UnknownQueue
from broker_app.queues import Names, Topology
from broker_app.queues.delay import parse_lane
from broker_app.topology.diff import Difference, DifferenceKind, compare_blind, compare_seen

if TYPE_CHECKING:
    import amqp
    from kombu.entity import Queue

    from broker_app.broker.access import Broker
    from broker_app.settings import Settings

LANE_WAIT_SECONDS = 60.0
"""Time to wait for a prune in progress before declaring lanes."""


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """All differences between the settings and the broker.

    Attributes:
        changes: The differences, in the order in which they can be resolved.
        wanted: The topology of the settings.
        blind: Why the management API was not available; empty if it was. Without it, bindings and undeclared
            queues are unknown.
    """

    changes: tuple[Difference, ...]
    wanted: Topology
    blind: str = ""

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The changes without the lanes that are declared on demand."""
        return tuple(change for change in self.changes if change.kind is not DifferenceKind.LATER)

    def names(self, *kinds: DifferenceKind) -> set[str]:
        """Return the names of the changes of the given kinds."""
        return {change.name for change in self.changes if change.kind in kinds}

    def counts(self) -> dict[str, int]:
        """Return the number of changes of each kind, including zeros."""
        found = Counter(change.kind for change in self.changes)
        return {str(kind): found[kind] for kind in DifferenceKind}


def compare_topology(app: Broker, connection: amqp.Connection) -> TopologyPlan:
    """Return the differences; the broker is not changed.

    Args:
        app: The app; its settings are used.
        connection: An open py-amqp connection.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    wanted, prefix = wanted_topology(app.settings), app.settings.prefix
    try:
        changes = compare_seen(connection, wanted, management_of(app, connection), prefix)
    except BrokerError as error:
        return TopologyPlan(tuple(compare_blind(connection, wanted, prefix)), wanted, blind=str(error))
    return TopologyPlan(tuple(changes), wanted)


def apply_plan(app: Broker, connection: amqp.Connection, plan: TopologyPlan) -> None:
    """Create what is missing; nothing is deleted or altered, and queues in migration are left alone.

    All bindings are declared, including existing ones, which changes nothing.

    Raises:
        BrokerError: Refused, or a prune took too long.
    """
    prefix = app.settings.prefix
    untouched = plan.names(DifferenceKind.DIFFERS, DifferenceKind.MOVING, DifferenceKind.UNKNOWN)
    lane_of = {Names(prefix).lane(lane): lane for lane in map(parse_lane, app.settings.common_lanes)}
    unbound = plan.names(DifferenceKind.MOVING, DifferenceKind.UNKNOWN) | lane_of.keys()
    declare_topology(
        connection,
        Topology(
            exchanges=tuple(it for it in plan.wanted.exchanges if it.name not in untouched),
            queues=tuple(it for it in plan.wanted.queues if it.name not in untouched | lane_of.keys()),
            exchange_bindings=plan.wanted.exchange_bindings,
            queue_bindings=tuple(it for it in plan.wanted.queue_bindings if it.destination not in unbound),
        ),
    )
    alike = sorted(lane for name, lane in lane_of.items() if name not in untouched)
    delay_lanes.declare(connection, alike, prefix, time.monotonic() + LANE_WAIT_SECONDS)


def movable(settings: Settings, name: str) -> list[Queue]:
    """Return the queues that `broker-app topology migrate` moves for a name: the dead-letter queue first.

    Args:
        settings: The settings.
        name: A queue of the settings, its dead-letter queue or the parking queue, with or without prefix.

    Raises:
        CallError: A lane or the stream of cancelled ids.
        UnknownQueue: The queue is not in the settings.
    """
    prefix, specs = settings.prefix, settings.specs()
    wanted = {queue.name: queue for queue in wanted_topology(settings).queues}
    for spec in specs:
        if name in {spec.name, spec.broker_name}:
            return [wanted[one] for one in (spec.dead_name, spec.broker_name) if one in wanted]
    full = name if name in wanted else prefix + name
    if full not in wanted:
        raise UnknownQueue(name, [spec.name for spec in specs])
    if full not in {Names(prefix).unrouted, *(spec.dead_name for spec in specs)}:
        text = "expected a work queue, its dead letters or the parking queue: no other can be moved"
        raise CallError(f"queue {full!r}: {text}; `broker-app topology plan` says what to do with it")
    return [wanted[full]]
