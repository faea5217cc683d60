"""Permission probes: find out what the broker's user may do, without side effects.

AMQP has no request that returns permissions, and RabbitMQ's management API shows them to administrators only. So
each probe sends an invalid request: RabbitMQ always refuses it, but checks the permission first (measured on
3.10.8 and 4.3.6). Reply code 403 means a missing permission; any other code means that it is granted. Nothing is
declared, bound, published or consumed. The probes use the real names, because permissions are patterns of names.
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
    """An operation that the user may not carry out.

    Attributes:
        what: A verb and its objects: ``consume queue 'lopri'``.
        needed: The permissions to grant.
        is_for_all: True if producers need them too, not only workers.
    """

    what: str
    needed: str
    is_for_all: bool


def missing_rights(
    app: Celery, connection: amqp.Connection, wanted: Topology, found: Sequence[InventoryItem]
) -> Iterator[MissingPermission]:
    """Probe every permission that producers and workers use, and yield the missing ones.

    Args:
        app: The app; its queues and the names of its remote control are used.
        connection: An open py-amqp connection; each probe opens its own channel.
        wanted: The exchanges, queues and bindings to declare.
        found: Their state on the broker.

    Raises:
        amqp.AMQPError, OSError: The connection was lost.
    """
    if names := [str(item) for item in found if not item.may_declare]:
        is_for_all = any(item.is_missing for item in found)
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
    """Return names joined for a message: the first few, then the number of the others."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


def may_declare_queue(connection: amqp.Connection, queue: Any) -> bool:
    """Return whether the user may declare a queue that does not exist, with its dead-letter exchange.

    The probe declares it with a negative length limit, which RabbitMQ refuses with 406 after checking the
    permissions (configure and read on the queue, write on its dead-letter exchange). If another client declares
    the queue at the same moment, the answer is 406 too.
    """
    arguments = {**(queue.queue_arguments or {}), "x-max-length": -1}
    code, _ = answer(
        connection,
        lambda channel: channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=arguments),
    )
    return code != REFUSED


def may_declare_exchange(connection: amqp.Connection, exchange: Any) -> bool:
    """Return whether the user may declare an exchange that does not exist.

    The probe names a number as alternate exchange, which RabbitMQ refuses with 406 after the permission check.
    """
    code, _ = answer(
        connection,
        lambda channel: channel.exchange_declare(
            exchange.name, exchange.type, durable=True, auto_delete=False, arguments={"alternate-exchange": 0}
        ),
    )
    return code != REFUSED


def may_bind_queue(connection: amqp.Connection, binding: Binding) -> bool:
    """Return whether the user may bind a queue, which needs write on the queue and read on the exchange.

    Removing a binding needs the same permissions. The probe removes a binding with a random key; it does not
    exist, and RabbitMQ accepts that.
    """
    code, _ = answer(
        connection, lambda channel: channel.queue_unbind(binding.destination, binding.source, uuid4().hex)
    )
    return code != REFUSED


def may_bind_exchange(connection: amqp.Connection, binding: Binding) -> bool:
    """Return whether the user may bind one exchange to another; probed as in `may_bind_queue`."""
    code, _ = answer(
        connection, lambda channel: channel.exchange_unbind(binding.destination, binding.source, uuid4().hex)
    )
    return code != REFUSED


def may_publish(connection: amqp.Connection, exchange: str, routing_key: str) -> bool:
    """Return whether the user may publish to an exchange with a routing key (topic permissions include the key).

    The message has an invalid expiration and the wrong ``user_id``: RabbitMQ checks the permissions, then refuses
    the message with 406 before routing it.
    """

    def probe(channel: amqp.Channel) -> None:
        channel.confirm_select()
        message = amqp.Message(b"", expiration="none", user_id=uuid4().hex)
        channel.basic_publish(message, exchange=exchange, routing_key=routing_key)
        connection.drain_events(timeout=ANSWER_SECONDS)

    code, _ = answer(connection, probe)
    return code != REFUSED


def may_consume(connection: amqp.Connection, queue: str) -> bool:
    """Return whether the user may consume from a queue, which need not exist.

    The consumer has an invalid priority: RabbitMQ checks the permission, then refuses the consumer with 406, or
    with 404 if the queue does not exist.
    """
    arguments = {"x-priority": "none"}
    code, _ = answer(connection, lambda channel: channel.basic_consume(queue, arguments=arguments))
    return code != REFUSED


def _unbindable(connection: amqp.Connection, wanted: Topology) -> list[str]:
    refused = [b.destination for b in wanted.exchange_bindings if not may_bind_exchange(connection, b)]
    refused += [b.destination for b in wanted.queue_bindings if not may_bind_queue(connection, b)]
    return [repr(name) for name in dict.fromkeys(refused)]


def _unpublishable(settings: Settings, connection: amqp.Connection) -> list[str]:
    """Return the exchanges and routing keys with which the user may not publish tasks, immediate or delayed."""
    names, delay = Names(settings.prefix), split_delay(1.0)
    keys = [spec.broker_name for spec in settings.specs()]
    routes = [(names.tasks, key) for key in keys] + [(names.delay, delay.routing_key(key)) for key in keys]
    return _refused(connection, routes)


def _unreportable(settings: Settings, connection: amqp.Connection) -> list[str]:
    """Return the exchanges and routing keys with which a worker may not publish dead letters and crash records."""
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
    """Return the queues and exchanges of remote control and events that a worker may not declare."""
    mailbox, conf = app.control.mailbox, app.conf
    mailbox_queue = mailbox.get_queue(f"check@{socket.gethostname()}").name
    queues = (mailbox_queue, f"check.{mailbox.reply_exchange.name}", f"{conf.event_queue_prefix}.check")
    exchanges = (mailbox.exchange, mailbox.reply_exchange, Exchange(conf.event_exchange, type="topic"))
    refused = [f"queue {name!r}" for name in queues if not may_declare_queue(connection, Queue(name))]
    return refused + [f"exchange {it.name!r}" for it in exchanges if not may_declare_exchange(connection, it)]
