"""What the broker's user may do, asked without doing it.

AMQP has no question for a right, and RabbitMQ's management API tells permissions to administrators only. So a
right is asked for by a request that RabbitMQ refuses in any case, but for a lack of rights first (measured on
3.10.8 and 4.3.6): the reply code says which it was, 403 or another. Nothing is declared, bound, published or
consumed, and the names are the real ones, which permissions are patterns of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import amqp
from amqp import exceptions as amqp_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from queues.definitions import Binding

    Probe = Callable[[amqp.Channel], Any]

ACCEPTED, REFUSED, NOT_FOUND, LOCKED, DIFFERS = 0, 403, 404, 405, 406
"""AMQP 0-9-1 reply codes, and 0 for a request that was carried out."""

_SECONDS = 5.0
"""How long a refused publish is waited for; without confirms its refusal is the only answer."""


def answer(connection: amqp.Connection, probe: Probe) -> tuple[int, str]:
    """Return the broker's reply code and words to a request, made on a channel of its own: a refusal closes it.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    channel = connection.channel()
    try:
        probe(channel)
    except amqp_errors.ChannelError as error:
        return error.reply_code, error.reply_text
    finally:
        if channel.connection is not None and channel.is_open:
            channel.close()
    return ACCEPTED, ""


def may_declare_queue(connection: amqp.Connection, queue: Any) -> bool:
    """Whether the user may declare a queue that is not there: configure it, and what its dead letters need.

    It is declared with a negative length limit, which RabbitMQ refuses with 406 after it has judged the rights
    (configure the queue, read it and write to its dead-letter exchange). Should somebody declare the queue at
    the same moment, the answer is 406 too.
    """
    arguments = {**(queue.queue_arguments or {}), "x-max-length": -1}
    code, _ = answer(
        connection,
        lambda channel: channel.queue_declare(
            queue.name, durable=queue.durable, auto_delete=False, arguments=arguments
        ),
    )
    return code != REFUSED


def may_declare_exchange(connection: amqp.Connection, exchange: Any) -> bool:
    """Whether the user may configure an exchange that is not there.

    It is declared with a number for its alternate exchange, which RabbitMQ refuses with 406 after the rights.
    """
    code, _ = answer(
        connection,
        lambda channel: channel.exchange_declare(
            exchange.name, exchange.type, durable=True, auto_delete=False, arguments={"alternate-exchange": 0}
        ),
    )
    return code != REFUSED


def may_bind_queue(connection: amqp.Connection, binding: Binding) -> bool:
    """Whether the user may bind a queue: write to it, read from the exchange.

    Undoing a binding needs the same rights; one with a random key does not exist, and undoing it is accepted.
    """
    code, _ = answer(
        connection, lambda channel: channel.queue_unbind(binding.destination, binding.source, uuid4().hex)
    )
    return code != REFUSED


def may_bind_exchange(connection: amqp.Connection, binding: Binding) -> bool:
    """Whether the user may bind an exchange to another; as `may_bind_queue`."""
    code, _ = answer(
        connection, lambda channel: channel.exchange_unbind(binding.destination, binding.source, uuid4().hex)
    )
    return code != REFUSED


def may_publish(connection: amqp.Connection, exchange: str, routing_key: str) -> bool:
    """Whether the user may write to an exchange with a routing key (topic permissions judge the key too).

    The message names an expiration that is no number and a user that is not this one: RabbitMQ judges the
    rights, then refuses either with 406 before it routes.
    """

    def probe(channel: amqp.Channel) -> None:
        channel.confirm_select()
        message = amqp.Message(b"", expiration="none", user_id=uuid4().hex)
        channel.basic_publish(message, exchange=exchange, routing_key=routing_key)
        connection.drain_events(timeout=_SECONDS)

    code, _ = answer(connection, probe)
    return code != REFUSED


def may_consume(connection: amqp.Connection, queue: str) -> bool:
    """Whether the user may read a queue, which need not be there.

    The consumer names a priority that is no number: RabbitMQ judges the right, then refuses it with 406
    before it exists, or with 404 if the queue is not there.
    """
    arguments = {"x-priority": "none"}
    code, _ = answer(connection, lambda channel: channel.basic_consume(queue, arguments=arguments))
    return code != REFUSED
