"""The entities of the contenders on the broker, and the path of a message to its queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from broker_app.broker.declare import declare_topology
from broker_app.queues import Names, QueueSpec, lane_topology, split_delay, work_topology

if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUE = "default"
OTHER_QUEUE = "lopri"
EXCHANGE = Exchange(Names().tasks, type="topic")
NATIVE_ENTRY = level_name(27)
"""The exchange of every delayed message in Celery: the topmost of its 28 levels."""


@dataclass(frozen=True, slots=True)
class Route:
    """The destination of a message: exchange and routing key."""

    exchange: str
    key: str


def direct_route(queue: str = QUEUE) -> Route:
    """Return the way of an immediate message, the same for broker-app and plain Celery."""
    return Route(EXCHANGE.name, queue)


def lane_route(delay_seconds: float, queue: str = QUEUE) -> Route:
    """Return the way through the delay lanes; at least one second."""
    return Route(Names().delay, split_delay(delay_seconds).routing_key(queue))


def native_route(delay_seconds: float, queue: str = QUEUE) -> Route:
    """Return the way through Celery's 28 levels, as Celery publishes; at least one second."""
    return Route(NATIVE_ENTRY, calculate_routing_key(int(delay_seconds), queue))


def native_level(delay_seconds: float) -> str:
    """Return the level, exchange and queue, in which Celery's delayed message waits first."""
    return level_name(int(delay_seconds).bit_length() - 1)


def plain_queue(name: str, queue_type: str) -> Queue:
    """Return a queue as a plain Celery project on RabbitMQ would declare it: a topic exchange, its name as key."""
    return Queue(name, EXCHANGE, routing_key=name, queue_arguments={"x-queue-type": queue_type})


def declare_ours(url: str, delays_seconds: Iterable[float] = ()) -> None:
    """Declare broker-app's queues, and the lanes that the delays need."""
    lanes = {lane for delay in delays_seconds for lane in split_delay(delay).lanes}
    with Connection(url) as connection:
        connection.ensure_connection(max_retries=1)
        specs = [QueueSpec(QUEUE), QueueSpec(OTHER_QUEUE)]
        declare_topology(connection.connection, work_topology(specs, ""))
        declare_topology(connection.connection, lane_topology(sorted(lanes), ""))


def declare_plain(url: str, queue_type: str = "quorum") -> None:
    """Declare plain Celery's queues."""
    with Connection(url) as connection:
        for name in (QUEUE, OTHER_QUEUE):
            plain_queue(name, queue_type)(connection.default_channel).declare()


def declare_native(url: str) -> None:
    """Declare plain Celery's queues and its native delayed delivery, as its worker does when it starts."""
    declare_plain(url)
    with Connection(url) as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        for name in (QUEUE, OTHER_QUEUE):
            bind_queue_to_native_delayed_delivery_exchange(connection, plain_queue(name, "quorum"))
