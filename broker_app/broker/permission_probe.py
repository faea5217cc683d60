"""What the broker's user may do, asked without doing it.

AMQP has no question for a right, and RabbitMQ's management API tells permissions to administrators only. So a
right is asked for by a request that RabbitMQ refuses in any case, but for a lack of rights first (measured on
3.10.8 and 4.3.6): the reply code says which it was, 403 or another. Nothing is declared, bound, published or
consumed, and the names are the real ones, which permissions are patterns of.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import amqp
from kombu.entity import Exchange, Queue

from broker_app.broker.ask import ANSWER_SECONDS, REFUSED, answer
from broker_app.queues import DeadLetters, Names, split_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from celery import Celery

    from broker_app.broker.inventory import InventoryItem
    from broker_app.queues import Topology
    from broker_app.queues.topology import Binding
    from broker_app.settings import Settings

    Probe = Callable[[amqp.Channel], Any]


@dataclass(frozen=True, slots=True)
class MissingPermission:
    """What the user may not do.

    Attributes:
        what: A verb and its objects: ``consume queue 'lopri'``.
        needed: The rights to grant.
        is_for_all: Whether producers need it too, and not workers alone.
    """

    what: str
    needed: str
    is_for_all: bool


def missing_rights(
    app: Celery, connection: amqp.Connection, wanted: Topology, found: Sequence[InventoryItem]
) -> Iterator[MissingPermission]:
    """Ask for every right that producers and workers use.

    Args:
        app: For its queues and the names of its remote control.
        connection: An open py-amqp connection; each question has a channel of its own.
        wanted: What they declare and bind.
        found: How that stands.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    if names := [str(standing) for standing in found if not standing.may_declare]:
        is_for_all = any(standing.is_missing for standing in found)
        needed = "configure, for new queues also read, and write on the exchange of dead letters"
        yield MissingPermission(f"declare {listed(names)}", needed, is_for_all)
    if names := _unbindable(connection, wanted):
        yield MissingPermission(
            f"bind {listed(names)}", "write on them and read on the exchanges", is_for_all=False
        )
    if names := _unpublishable(app.settings, connection):
        yield MissingPermission(f"publish to {listed(names)}", "write on the exchanges", is_for_all=True)
    if names := _unreportable(app.settings, connection):
        yield MissingPermission(f"report failures to {listed(names)}", "write on the exchanges", is_for_all=False)
    if names := _unreadable(app.settings, connection):
        yield MissingPermission(f"consume {listed(names)}", "read on them", is_for_all=False)
    if names := _uncontrollable(app, connection):
        yield MissingPermission(f"declare {listed(names)}", "configure, read and write on them", is_for_all=False)


def listed(names: Sequence[object], shown: int = 6) -> str:
    """Return names for a message, the first few and the number of the rest."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


def may_declare_queue(connection: amqp.Connection, queue: Any) -> bool:
    """Whether the user may declare a queue that is not there: configure it, and what its dead letters need.

    It is declared with a negative length limit, which RabbitMQ refuses with 406 after it has judged the rights
    (configure the queue, read it and write to its dead-letter exchange). Should somebody declare the queue at
    the same moment, the answer is 406 too.
    """
    arguments = {**(queue.queue_arguments or {}), "x-max-length": -1}
    code, _ = answer(
        connection,
        lambda channel: channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=arguments),
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
        connection.drain_events(timeout=ANSWER_SECONDS)

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


def _unbindable(connection: amqp.Connection, wanted: Topology) -> list[str]:
    refused = [b.destination for b in wanted.exchange_bindings if not may_bind_exchange(connection, b)]
    refused += [b.destination for b in wanted.queue_bindings if not may_bind_queue(connection, b)]
    return [repr(name) for name in dict.fromkeys(refused)]


def _unpublishable(settings: Settings, connection: amqp.Connection) -> list[str]:
    """Return where tasks may not be published, at once or with a delay, by exchange and routing key."""
    names, delay = Names(settings.prefix), split_delay(1.0)
    keys = [spec.broker_name for spec in settings.specs()]
    routes = [(names.tasks, key) for key in keys] + [(names.delay, delay.routing_key(key)) for key in keys]
    return _refused(connection, routes)


def _unreportable(settings: Settings, connection: amqp.Connection) -> list[str]:
    """Return where a worker may not publish what it gives up, and what has killed a worker."""
    names = Names(settings.prefix)
    kept = [spec.broker_name for spec in settings.specs() if spec.dead_letters is DeadLetters.KEEP]
    return _refused(connection, [(names.dead, key) for key in kept] + [(names.suspects, "")])


def _refused(connection: amqp.Connection, routes: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{exchange!r} with {key!r}" for exchange, key in routes if not may_publish(connection, exchange, key)]


def _unreadable(settings: Settings, connection: amqp.Connection) -> list[str]:
    names = Names(settings.prefix)
    queues = [*(spec.broker_name for spec in settings.specs()), names.cancelled, names.suspects, names.paused]
    return [f"queue {queue!r}" for queue in queues if not may_consume(connection, queue)]


def _uncontrollable(app: Celery, connection: amqp.Connection) -> list[str]:
    """Return what a worker may not declare for remote control and events; hosts and ids are in those names."""
    mailbox, conf = app.control.mailbox, app.conf
    mailbox_queue = mailbox.get_queue(f"check@{socket.gethostname()}").name
    queues = (mailbox_queue, f"check.{mailbox.reply_exchange.name}", f"{conf.event_queue_prefix}.check")
    exchanges = (mailbox.exchange, mailbox.reply_exchange, Exchange(conf.event_exchange, type="topic"))
    refused = [f"queue {name!r}" for name in queues if not may_declare_queue(connection, Queue(name))]
    return refused + [f"exchange {it.name!r}" for it in exchanges if not may_declare_exchange(connection, it)]
