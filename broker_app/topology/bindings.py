"""Queue bindings: list them, and hand them over to another queue without ever leaving messages unrouted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.broker.declare import pipelined_channel
from broker_app.errors import ArgumentsDiffer

if TYPE_CHECKING:
    from collections.abc import Iterable

    import amqp

    from broker_app.broker.management import Management


@dataclass(frozen=True, slots=True)
class QueueBindings:
    """One binding of a queue.

    Attributes:
        source: The source exchange.
        key: The routing key or pattern.
        arguments: The arguments, used by headers exchanges, as sorted pairs.
    """

    source: str
    key: str
    arguments: tuple[tuple[str, Any], ...] = ()


def list_bindings(management: Management, queue: str, but: str) -> list[QueueBindings]:
    """Return the bindings of a queue; an empty list if it does not exist.

    Args:
        management: The broker's management API.
        queue: The queue's name on the broker.
        but: A source exchange whose bindings are left out.

    Raises:
        BrokerError: The API does not answer.
    """
    found = [
        QueueBindings(item["source"], item["routing_key"], tuple(sorted(item["arguments"].items())))
        for item in management.bindings_to(queue)
    ]
    return [bound for bound in found if bound.source != but]


def bind(connection: amqp.Connection, queue: str, bounds: Iterable[QueueBindings]) -> None:
    """Bind a queue; existing bindings stay.

    Raises:
        BrokerError: Refused.
    """
    with pipelined_channel(connection, f"queue {queue!r}") as channel:
        for bound in bounds:
            _bind(channel, queue, bound)


def unbind(connection: amqp.Connection, queue: str, bounds: Iterable[QueueBindings]) -> None:
    """Unbind a queue; missing bindings are not an error. Raises as `bind`."""
    with pipelined_channel(connection, f"queue {queue!r}") as channel:
        for bound in bounds:
            _unbind(channel, queue, bound)


def replace(
    connection: amqp.Connection,
    queue: Any,
    stand_in: str,
    bounds: Iterable[QueueBindings],
    *,
    is_deleted_first: bool,
) -> bool:
    """Declare a queue and hand over the bindings of its stand-in, in one pipelined batch.

    For some milliseconds, between the first binding and the last unbinding, a message may go to both queues.

    Args:
        connection: An open py-amqp connection.
        queue: The wanted kombu queue.
        stand_in: The queue that has the bindings now.
        bounds: The bindings to hand over.
        is_deleted_first: Whether to delete the queue first, because it exists with other arguments.

    Returns:
        False if another client declared the queue with other arguments in between; the stand-in is then still
        bound.

    Raises:
        BrokerError: Refused.
    """
    bounds = tuple(bounds)
    try:
        with pipelined_channel(connection, f"queue {queue.name!r}") as channel:
            if is_deleted_first:
                channel.queue_delete(queue.name, nowait=True)
            declare(channel, queue)
            for bound in bounds:
                _bind(channel, queue.name, bound)
            for bound in bounds:
                _unbind(channel, stand_in, bound)
    except ArgumentsDiffer:
        return False
    return True


def declare(channel: amqp.Channel, queue: Any) -> None:
    """Declare a queue without waiting for the answer."""
    arguments = queue.queue_arguments
    channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=arguments, nowait=True)


def _bind(channel: amqp.Channel, queue: str, bound: QueueBindings) -> None:
    channel.queue_bind(queue, bound.source, bound.key, arguments=dict(bound.arguments), nowait=True)


def _unbind(channel: amqp.Channel, queue: str, bound: QueueBindings) -> None:
    """Unbind without waiting; AMQP always answers ``queue.unbind``, and py-amqp ignores unexpected answers."""
    channel.queue_unbind(queue, bound.source, bound.key, arguments=dict(bound.arguments), nowait=True)
