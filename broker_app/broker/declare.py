"""Declarations: create the topology that `queues` describes, and translate the broker's refusals."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import amqp
from amqp import exceptions as amqp_errors

from broker_app.broker.access import cut_when_interrupted
from broker_app.broker.pipeline import Refusal, Request, carry_out
from broker_app.errors import ArgumentsDiffer, BrokerError, BrokerLocked, BrokerRefused, NotOnBroker
from broker_app.queues import Topology, lane_topology, work_topology
from broker_app.queues.delay import parse_lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kombu.entity import Exchange, Queue

    from broker_app.queues.topology import Binding
    from broker_app.settings import Settings

_REFUSALS: dict[int, tuple[type[BrokerError], str]] = {
    BrokerRefused.code: (
        BrokerRefused,
        "grant the permission, or run `broker-app topology declare` as a user who has it",
    ),
    NotOnBroker.code: (NotOnBroker, "run `broker-app topology declare`"),
    BrokerLocked.code: (BrokerLocked, "another connection holds it; try again when it is closed"),
    ArgumentsDiffer.code: (
        ArgumentsDiffer,
        "set the settings to what exists, or drain and delete it (of a queue, `broker-app topology migrate` can)",
    ),
}


def wanted_topology(settings: Settings) -> Topology:
    """Return the full topology of the settings: exchanges, queues, dead letters, parking and common lanes."""
    work = work_topology(settings.specs(), settings.prefix)
    lanes = lane_topology(map(parse_lane, settings.common_lanes), settings.prefix)
    return Topology(
        exchanges=work.exchanges,
        queues=work.queues + lanes.queues,
        exchange_bindings=work.exchange_bindings,
        queue_bindings=work.queue_bindings + lanes.queue_bindings,
    )


def declare_topology(connection: amqp.Connection, topology: Topology, deadline: float | None = None) -> None:
    """Create the missing parts of a topology in one round trip; identical existing parts are left alone.

    Args:
        connection: An open py-amqp connection (kombu's ``connection.connection``); a channel is opened for it.
        topology: Exchanges first, then queues, then their bindings.
        deadline: As `pipeline.carry_out`.

    Raises:
        BrokerError: Refused; the class says why: no permission, other arguments, exclusive elsewhere.
        TimeoutError: The broker did not answer in time.
    """
    (refusal,) = carry_out(connection, [declarations(topology)], deadline)
    if refusal is not None:
        raise translated(refusal) from refusal.error


def declarations(topology: Topology) -> list[Request]:
    """Return the requests that create a topology, in dependency order."""
    return [
        *(Request(f"exchange {one.name!r}", partial(_declare_exchange, one)) for one in topology.exchanges),
        *(Request(f"queue {one.name!r}", partial(_declare_queue, one)) for one in topology.queues),
        *(_binding(amqp.Channel.exchange_bind, one) for one in topology.exchange_bindings),
        *(_binding(amqp.Channel.queue_bind, one) for one in topology.queue_bindings),
    ]


def translated(refusal: Refusal) -> BrokerError | amqp_errors.AMQPError:
    """Return our exception for a refusal, or the broker's own if its reply code has no class of ours."""
    return _translated(refusal.subject, refusal.error) or refusal.error


def look_for(name: str) -> Request:
    """Return a passive declaration, refused with 404 if the queue does not exist; permissions as `queue_state`."""
    return Request(f"queue {name!r}", lambda channel: channel.queue_declare(name, passive=True))


def queue_exists(connection: amqp.Connection, name: str, deadline: float | None = None) -> bool:
    """Return whether a queue exists, in one round trip; raises as `queue_state` and `pipeline.carry_out`."""
    (refusal,) = carry_out(connection, [[look_for(name)]], deadline)
    if refusal is None:
        return True
    error = translated(refusal)
    if isinstance(error, NotOnBroker):
        return False
    raise error from refusal.error


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of a queue, as AMQP reports it.

    Attributes:
        ready: Messages ready for delivery, without unacknowledged ones.
        consumers: Number of consumers.
    """

    ready: int
    consumers: int


def queue_state(connection: amqp.Connection, name: str) -> QueueState | None:
    """Return a queue's state from a passive declaration, or None if it does not exist.

    This needs no configure permission. Since RabbitMQ 4.3 it needs some permission on the queue: without one the
    answer is 403, whether or not the queue exists.

    Raises:
        BrokerLocked: It is exclusive to another connection.
        BrokerRefused: The user has no permission on it (4.3 and later).
    """
    try:
        with _channel(connection) as channel, _refusal(f"queue {name!r}"):
            answer = channel.queue_declare(name, passive=True)
    except NotOnBroker:
        return None
    return QueueState(answer.message_count, answer.consumer_count)


def queue_depth(connection: amqp.Connection, name: str) -> int | None:
    """Return how many messages are ready in a queue, None if it does not exist."""
    found = queue_state(connection, name)
    return None if found is None else found.ready


def delete_queue(connection: amqp.Connection, name: str) -> None:
    """Delete a queue and its messages; a missing queue is not an error.

    Raises:
        BrokerRefused: No configure permission on it.
    """
    with _channel(connection) as channel, _refusal(f"queue {name!r}"):
        channel.queue_delete(name)


def delete_exchange(connection: amqp.Connection, name: str) -> None:
    """Delete an exchange; a missing exchange is not an error.

    Raises:
        BrokerRefused: No configure permission on it.
    """
    with _channel(connection) as channel, _refusal(f"exchange {name!r}"):
        channel.exchange_delete(name)


def unbind_queue(connection: amqp.Connection, binding: Binding) -> None:
    """Remove a queue's binding; a missing binding is not an error."""
    with _channel(connection) as channel, _refusal(f"binding {binding.source!r} to {binding.destination!r}"):
        channel.queue_unbind(binding.destination, binding.source, binding.key)


def is_exclusive(connection: amqp.Connection, name: str) -> bool:
    """Return whether a queue exists or is exclusive to another connection, as with `exclusive_queue`."""
    try:
        return queue_exists(connection, name)
    except BrokerLocked:
        return True


@contextmanager
def pipelined_channel(connection: amqp.Connection, subject: str) -> Iterator[amqp.Channel]:
    """Open a channel for pipelined requests; the block ends once the broker has processed all of them.

    Args:
        connection: An open py-amqp connection.
        subject: The object of the requests, for the error message.

    Raises:
        BrokerError: The broker refused a request; the later ones were not carried out.
    """
    with _refusal(subject), _channel(connection) as opened:
        yield opened
        opened.basic_qos(0, 0, a_global=False)  # answered only after all earlier requests


@contextmanager
def exclusive_queue(connection: amqp.Connection, name: str) -> Iterator[None]:
    """Hold an exclusive queue as a lock: others get 405. It is deleted with the block or the connection.

    Raises:
        BrokerLocked: Another connection holds it.
    """
    with _channel(connection) as channel, _refusal(f"queue {name!r}"):
        channel.queue_declare(name, exclusive=True, auto_delete=False)
    try:
        with cut_when_interrupted(connection):
            yield
    finally:
        with suppress(amqp_errors.ConnectionError, OSError):
            delete_queue(connection, name)


@contextmanager
def _channel(connection: amqp.Connection) -> Iterator[amqp.Channel]:
    """Open a channel for a few calls; not shared, because a refusal closes it."""
    channel = connection.channel()
    try:
        with cut_when_interrupted(connection):
            yield channel
    finally:
        if channel.connection is not None and channel.is_open:
            channel.close()


@contextmanager
def _refusal(subject: str) -> Iterator[None]:
    """Translate the broker's reply code into the matching exception class."""
    try:
        yield
    except (amqp_errors.ChannelError, amqp_errors.ConnectionError) as error:
        known = _translated(subject, error)
        if known is None:
            raise
        raise known from error


def _translated(subject: str, error: amqp_errors.AMQPError) -> BrokerError | None:
    """Return our exception for the broker's, or None if the reply code has no class of ours."""
    known = _REFUSALS.get(error.reply_code)
    if known is None:
        return None
    cls, advice = known
    return cls(f"{subject}: the broker answered {error.reply_code} {error.reply_text}; {advice}")


def _declare_exchange(exchange: Exchange, channel: amqp.Channel) -> None:
    exchange(channel).declare()


def _declare_queue(queue: Queue, channel: amqp.Channel) -> None:
    queue(channel).queue_declare()


def _binding(bind: Callable[..., object], binding: Binding) -> Request:
    def send(channel: amqp.Channel) -> None:
        bind(channel, binding.destination, binding.source, binding.key)

    return Request(f"binding {binding.source!r} to {binding.destination!r}", send)
