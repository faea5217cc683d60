"""Look into queues and move what stands in them, with pika: confirmed in the new place before acked in the old."""

from __future__ import annotations

import logging
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from broker_app.errors import BrokerError, NotOnBroker
from broker_app.outgoing import BROKER_HEADERS, MAYBE_TWICE_HEADER
from queues import InvalidDelay, Names, UnknownQueue
from queues.delay import parse_routing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from broker_app.app import BrokerApp

BLOCKED_TIMEOUT_SECONDS = 30.0

_PIKA_LOGGER = logging.getLogger("pika")


@dataclass(frozen=True, slots=True)
class Parked:
    """One message of the parking queue.

    Attributes:
        task_id: Its id, empty if it has none.
        task: Its task's name, empty if it has none.
        queue: The queue that it was due for, without prefix; the routing key as it is if it is no delay's.
    """

    task_id: str
    task: str
    queue: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        moved: Messages that the broker confirmed in their queue.
        left: Messages that stay parked, with the reason of the first.
        reason: Why the first one stays; empty if none does.
    """

    moved: int
    left: int
    reason: str = ""


def peek_unrouted(app: BrokerApp, limit: int) -> list[Parked]:
    """Return the first messages of the parking queue; they are handed back in their order when this returns.

    Raises:
        BrokerError: The broker cannot be reached, or nothing was ever declared there.
    """
    names = Names(app.settings.prefix)
    found = []
    with open_channel(app) as channel:
        for _ in range(limit):
            method, properties, _body = channel.basic_get(names.unrouted)
            if method is None:
                break
            found.append(_parked(app, method.routing_key, properties))
        _hand_back(channel)
    return found


def replay_unrouted(app: BrokerApp, to: str | None, told: Callable[[int], None]) -> Replayed:
    """Send each parked message to the queue that it was due for.

    A message is acknowledged only after its queue has confirmed it: killed at any point, it is there at least
    once, at worst in both places with the same id. What cannot be routed stays. One that was looked at before
    carries `MAYBE_TWICE_HEADER`: a replay that was killed may have sent it.

    Args:
        app: The app.
        to: Another queue for all of them.
        told: Called with the number of messages moved so far.

    Raises:
        RoutingError: ``to`` is not a declared queue.
        BrokerError: The broker cannot be reached, or nothing was ever declared there.
    """
    names, table = Names(app.settings.prefix), app.settings.routing_table()
    override = None if to is None else table.queue(to).broker_name
    moved, kept, reason = 0, 0, ""
    with open_channel(app) as channel:
        channel.confirm_delivery()
        waiting = channel.queue_declare(names.unrouted, passive=True).method.message_count
        for _ in range(waiting):
            method, properties, body = channel.basic_get(names.unrouted)
            if method is None:
                break
            try:
                key = override or table.queue(_parked(app, method.routing_key, properties).queue).broker_name
                _refresh(properties, is_redelivered=method.redelivered)
                channel.basic_publish(names.tasks, key, body, properties, mandatory=True)
            except (UnroutableError, NackError, UnknownQueue) as error:
                kept, reason = kept + 1, reason or _why(error, method.routing_key)
                continue  # unacknowledged: the others come first
            channel.basic_ack(method.delivery_tag)
            moved += 1
            told(moved)
        _hand_back(channel)
    return Replayed(moved, kept, reason)


@contextmanager
def open_channel(app: BrokerApp) -> Iterator[BlockingChannel]:
    """Open a pika channel on a connection of its own, to the first broker that answers.

    Raises:
        BrokerError: None answers, or the broker closed the channel.
        NotOnBroker: A queue is not there.
    """
    if not _PIKA_LOGGER.handlers:  # without one Python would print its warnings beside our one line
        _PIKA_LOGGER.addHandler(logging.NullHandler())
    try:
        connection = pika.BlockingConnection(_parameters(app))
    except (AMQPError, OSError) as error:
        where = app.connection_for_write().as_uri()
        raise BrokerError(f"{where}: no access to the broker ({error!r}); check broker_url") from error
    try:
        yield connection.channel()
    except ChannelClosedByBroker as error:
        cls = NotOnBroker if error.reply_code == NotOnBroker.code else BrokerError
        advice = "; run `broker-app topology declare`" if cls is NotOnBroker else ""
        raise cls(f"the broker answered {error.reply_code} {error.reply_text}{advice}") from error
    except AMQPError as error:
        raise BrokerError(f"the connection was lost, try again: {error!r}") from error
    finally:
        if connection.is_open:
            connection.close()


def _parameters(app: BrokerApp) -> list[pika.ConnectionParameters]:
    """Return pika's parameters for each broker URL of the settings."""
    connection = app.connection_for_write()
    parameters = []
    for url in connection.alt or [None]:
        one = app.connection_for_write(url) if url else connection
        context = _tls(one.ssl) if one.ssl else None
        parameters.append(
            pika.ConnectionParameters(
                host=one.hostname or "localhost",
                port=one.port or (5671 if one.ssl else 5672),
                virtual_host=one.virtual_host or "/",
                credentials=pika.PlainCredentials(one.userid or "guest", one.password or "guest"),
                ssl_options=pika.SSLOptions(context, one.hostname) if context else None,
                blocked_connection_timeout=BLOCKED_TIMEOUT_SECONDS,
            )
        )
    return parameters


def _hand_back(channel: BlockingChannel) -> None:
    """Return all that is not acknowledged; RabbitMQ 4.3 does not count this as a failed delivery, as a close."""
    channel.basic_nack(multiple=True, requeue=True)


def _tls(options: Any) -> ssl.SSLContext:
    """Return a context that verifies chain and host name, with the files of Celery's ``broker_use_ssl``."""
    files = options if isinstance(options, dict) else {}
    context = ssl.create_default_context(cafile=files.get("ca_certs"))
    if files.get("certfile"):
        context.load_cert_chain(files["certfile"], files.get("keyfile"))
    return context


def _refresh(properties: pika.BasicProperties, *, is_redelivered: bool) -> None:
    """Take the marks of its first way off a message."""
    headers = {name: value for name, value in (properties.headers or {}).items() if name not in BROKER_HEADERS}
    properties.headers = headers | ({MAYBE_TWICE_HEADER: True} if is_redelivered else {})


def _parked(app: BrokerApp, routing_key: str, properties: pika.BasicProperties) -> Parked:
    headers = properties.headers or {}
    try:
        queue = parse_routing_key(routing_key)[1].removeprefix(app.settings.prefix)
    except InvalidDelay:
        queue = routing_key
    return Parked(str(headers.get("id", "")), str(headers.get("task", "")), queue)


def _why(error: Exception, routing_key: str) -> str:
    if isinstance(error, UnknownQueue):
        return str(error)
    refused = isinstance(error, NackError)
    return f"{routing_key}: " + ("its queue refused it" if refused else "its queue is not on the broker")
