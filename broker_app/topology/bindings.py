"""What leads to a queue, and how it is turned to another one: at every moment a message has a place."""

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
    """What binds a queue.

    Attributes:
        source: An exchange.
        key: The routing key or the pattern.
        arguments: Those of a headers exchange, as sorted pairs.
    """

    source: str
    key: str
    arguments: tuple[tuple[str, Any], ...] = ()


def standing(management: Management, queue: str, but: str) -> list[QueueBindings]:
    """Return what a queue is bound to, none if it is not there.

    Args:
        management: The API of the broker.
        queue: Its name.
        but: An exchange that does not count.

    Raises:
        BrokerError: The API does not answer.
    """
    found = [
        QueueBindings(item["source"], item["routing_key"], tuple(sorted(item["arguments"].items())))
        for item in management.bindings_to(queue)
    ]
    return [bound for bound in found if bound.source != but]


def bind(connection: amqp.Connection, queue: str, bounds: Iterable[QueueBindings]) -> None:
    """Bind a queue; what stands so already stays.

    Raises:
        BrokerError: Refused.
    """
    with pipelined_channel(connection, f"queue {queue!r}") as channel:
        for bound in bounds:
            _bind(channel, queue, bound)


def unbind(connection: amqp.Connection, queue: str, bounds: Iterable[QueueBindings]) -> None:
    """Unbind a queue; fine if it was not bound. Raises as `bind`."""
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
    """Declare a queue, and turn to it what leads to its stand-in, in one go: no answer is waited for in between.

    Between the first binding and the last, some milliseconds, a message goes to both queues.

    Args:
        connection: An open py-amqp connection.
        queue: As it is wanted.
        stand_in: A queue with all of the bindings.
        bounds: The bindings.
        is_deleted_first: Whether the queue is there with other arguments, and goes.

    Returns:
        False if somebody has declared it with other arguments in between; then the stand-in is still bound.

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
    """Ask for a queue without waiting for the answer."""
    arguments = queue.queue_arguments
    channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=arguments, nowait=True)


def _bind(channel: amqp.Channel, queue: str, bound: QueueBindings) -> None:
    channel.queue_bind(queue, bound.source, bound.key, arguments=dict(bound.arguments), nowait=True)


def _unbind(channel: amqp.Channel, queue: str, bound: QueueBindings) -> None:
    """AMQP knows no such request without an answer; py-amqp passes over one that nobody waits for."""
    channel.queue_unbind(queue, bound.source, bound.key, arguments=dict(bound.arguments), nowait=True)
