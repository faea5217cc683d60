"""Confirmed publishing: a task is on the broker when the call returns, or the caller has an exception.

`BrokerApp.send_task` hands every task to `Publisher.send`: Celery's own calls, canvas, retries and chords too.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors
from celery import signals
from kombu import compression as kombu_compression
from kombu import serialization

from broker_app import lanes, topology
from broker_app.confirms import BlockedError, ConfirmChannel, ConfirmTimeoutError, Outcome
from broker_app.connections import bounded, discard, open_connection
from broker_app.errors import (
    BrokerError,
    BrokerUnreachable,
    InvalidDelay,
    NoRoute,
    PublishError,
    PublishRefused,
    PublishTimeout,
    QueueFull,
    RoutingError,
)
from queues import Names, QueueSpec, RoutingTable, work_topology
from queues.delay import Delay, parse_routing_key
from queues.spec import check_priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery
    from kombu.messaging import Producer

PUBLISHED_AT_HEADER = "broker_app_published_at"
"""Seconds since the epoch (float), by the producer's clock, when the task was handed to the broker."""

DELAY_HEADER = "broker_app_delay_seconds"
"""The delay that was asked for; what a task waited in its queue is now - published_at - delay."""

MAYBE_TWICE_HEADER = "broker_app_maybe_twice"
"""True on a message that was sent again because the connection was lost before the first was confirmed."""

RETRY_INTERVALS_SECONDS = (0.0, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to reach the broker; the last one repeats until the time-out."""

MESSAGE_OPTIONS = frozenset({"app_id", "cluster_id", "message_id", "reply_to", "timestamp", "type", "user_id"})
"""AMQP basic properties that a caller may set. Not ``expiration``: an expired task would end in the dead letters
with its result pending for ever; the worker looks at ``expires`` and says REVOKED."""

PERSISTENT = 2
"""AMQP basic property delivery-mode: written to disk."""


@dataclass(slots=True)
class Outgoing:
    """One message, ready to be sent.

    Attributes:
        task: The task's name.
        task_id: Its id.
        spec: The queue that it is for; None for an exchange that is not ours.
        delay: How long it waits in the broker first.
        exchange: Where it is published.
        routing_key: At most 255 bytes.
        body: Serialised.
        properties: AMQP basic properties, headers included.
        is_unanswered: Whether it was sent and the broker has not said what became of it.
    """

    task: str
    task_id: str
    spec: QueueSpec | None
    delay: Delay
    exchange: str
    routing_key: str
    body: bytes
    properties: dict[str, Any]
    is_unanswered: bool = False

    @property
    def place(self) -> str:
        """The queue, or exchange and key, for messages to people."""
        return self.spec.name if self.spec else f"{self.exchange}/{self.routing_key}"

    def refused(self, cls: type[PublishError], reason: object) -> PublishError:
        """Return the error that says that the broker did not take it."""
        return cls(task=self.task, task_id=self.task_id, queue=self.place, reason=str(reason))


class Publisher:
    """Publishes tasks with confirms and ``mandatory``, in a bounded time.

    Args:
        app: The Celery app, for its serializer defaults and events.
        table: The declared queues.
        prefix: Of the names on the broker.
        timeout_seconds: Bound of one call, connecting and retrying included.
    """

    def __init__(self, app: Celery, table: RoutingTable, prefix: str, timeout_seconds: float) -> None:
        self._app = app
        self._table = table
        self._names = Names(prefix)
        self._timeout_seconds = timeout_seconds

    def send(self, producer: Producer, name: str, message: Any, **options: Any) -> None:
        """Publish a task message; Celery's ``amqp.send_task_message``.

        Args:
            producer: From the app's pool, or the caller's; its connection is used.
            name: The task's name.
            message: Celery's task message: headers, properties, body, sent event.
            **options: Celery's publishing options (queue, exchange, routing_key, priority, headers,
                serializer, compression, retry, retry_policy, confirm_timeout, …) and ``broker_app_delay``.

        Raises:
            RoutingError: The destination, priority or delay cannot be; nothing was sent.
            PublishError: The broker did not take it; the class says why and whether it may have.
        """
        retry = options.pop("retry", None) is not False
        timeout = options.pop("confirm_timeout", None) or options.pop("timeout", None) or self._timeout_seconds
        outgoing = self._prepare(name, message, options)
        self.deliver(producer.connection, outgoing, time.monotonic() + timeout, retry=retry)
        headers = outgoing.properties["application_headers"]
        where = {"exchange": outgoing.exchange, "routing_key": outgoing.routing_key}
        signals.after_task_publish.send(sender=name, body=message.body, headers=headers, **where)
        if message.sent_event:
            event = dict(message.sent_event, queue=outgoing.place, eta=headers.get("eta"), **where)
            self._app.amqp._event_dispatcher.publish("task-sent", event, producer, retry=retry)  # noqa: SLF001

    def deliver(self, connection: Any, outgoing: Outgoing, deadline: float, *, retry: bool = True) -> None:
        """Get one message onto the broker, connecting again where the connection is lost.

        Args:
            connection: A kombu connection, open or not.
            outgoing: The message.
            deadline: On the clock of `time.monotonic`.
            retry: Whether a lost connection is tried again. Sent again, a message carries `MAYBE_TWICE_HEADER`.

        Raises:
            PublishError: As `send`.
        """
        for pause in chain(RETRY_INTERVALS_SECONDS, repeat(RETRY_INTERVALS_SECONDS[-1])):
            try:
                self._connect(connection, outgoing, deadline)
                with bounded(connection.connection, deadline):
                    self._deliver_once(connection, outgoing, deadline)
                break
            except connection.recoverable_connection_errors as error:
                discard(connection)
                if not retry or time.monotonic() + pause >= deadline:
                    cls = PublishTimeout if outgoing.is_unanswered else BrokerUnreachable
                    raise outgoing.refused(cls, topology.words(error)) from error
                time.sleep(pause)

    def _prepare(self, name: str, message: Any, options: dict[str, Any]) -> Outgoing:
        delay: Delay = options.pop("broker_app_delay", None) or Delay((), 0.0)
        spec, exchange, routing_key = self._destination(options, delay)
        headers = dict(message.headers, **options.pop("headers", None) or {})
        headers.pop(MAYBE_TWICE_HEADER, None)  # a retry brings its last message's headers along
        headers[PUBLISHED_AT_HEADER] = time.time()
        headers[DELAY_HEADER] = delay.seconds
        _check_expiry(headers, delay)
        properties = dict(message.properties, priority=_priority(spec, name, options.pop("priority", None)))
        properties.update((option, options[option]) for option in MESSAGE_OPTIONS & options.keys())
        serializer, compression = options.pop("serializer", None), options.pop("compression", None)
        signals.before_task_publish.send(
            sender=name,
            body=message.body,
            exchange=exchange,
            routing_key=routing_key,
            declare=[],
            headers=headers,
            properties=properties,
            retry_policy=options.pop("retry_policy", None) or {},
        )
        body, encoded = self._encode(message.body, serializer, compression, headers)
        return Outgoing(
            task=name,
            task_id=properties["correlation_id"],
            spec=spec,
            delay=delay,
            exchange=exchange,
            routing_key=routing_key,
            body=body,
            properties=dict(properties, **encoded, application_headers=headers, delivery_mode=PERSISTENT),
        )

    def _destination(self, options: dict[str, Any], delay: Delay) -> tuple[QueueSpec | None, str, str]:
        """Return the queue's spec, the exchange and the key.

        A routing key for an exchange of ours is a queue's name on the broker; a retried task's key is the one
        that it came by, with its last delay in front.
        """
        queue, exchange, key = (options.pop(name, None) for name in ("queue", "exchange", "routing_key"))
        exchange = getattr(exchange, "name", exchange)
        if exchange and exchange not in {self._names.tasks, self._names.due, self._names.delay}:
            if delay.lanes:
                raise RoutingError(f"exchange {exchange!r}: expected a declared queue for a countdown; use queue=")
            return None, exchange, key or ""
        if key and exchange in {self._names.due, self._names.delay}:
            key = parse_routing_key(key)[1]
        spec = self._table.queue(key or getattr(queue, "name", queue) or self._table.default)
        if delay.lanes:
            return spec, self._names.delay, delay.routing_key(spec.broker_name)
        return spec, self._names.tasks, spec.broker_name

    def _encode(
        self, body: Any, serializer: str | None, compression: str | None, headers: dict[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        conf = self._app.conf
        content_type, encoding, data = serialization.dumps(body, serializer or conf.task_serializer)
        if compression or conf.task_compression:
            data, headers["compression"] = kombu_compression.compress(data, compression or conf.task_compression)
        data = data.encode() if isinstance(data, str) else data
        return data, {"content_type": content_type, "content_encoding": encoding}

    def _connect(self, connection: Any, outgoing: Outgoing, deadline: float) -> None:
        try:
            open_connection(connection, self._app.conf.broker_connection_timeout, deadline)
        except connection.recoverable_connection_errors:
            raise
        except amqp_errors.AMQPError as error:
            raise outgoing.refused(BrokerUnreachable, topology.words(error)) from error

    def _deliver_once(self, connection: Any, outgoing: Outgoing, deadline: float) -> None:
        """Publish and wait for the answer; declare what is not there yet, and send once more."""
        raw = connection.connection
        try:
            channel = ConfirmChannel.of(raw)
            self._ensure_lanes(channel, outgoing, deadline)
            channel.wait_until_unblocked(deadline)
            if self._is_routed(channel, outgoing, deadline):
                return
            self._declare_path(channel, outgoing, deadline)
            if not self._is_routed(ConfirmChannel.of(raw), outgoing, deadline):
                raise outgoing.refused(
                    NoRoute, f"no queue takes {outgoing.routing_key!r} from {outgoing.exchange!r}"
                )
        except BlockedError as error:
            raise outgoing.refused(BrokerUnreachable, topology.words(error)) from error
        except ConfirmTimeoutError as error:
            discard(connection)
            raise outgoing.refused(PublishTimeout, topology.words(error)) from error
        except connection.recoverable_connection_errors:
            raise
        except (amqp_errors.AMQPError, BrokerError, struct.error) as error:
            discard(connection)
            raise outgoing.refused(PublishRefused, topology.words(error)) from error

    def _is_routed(self, channel: ConfirmChannel, outgoing: Outgoing, deadline: float) -> bool:
        """Publish; False if there is no exchange or no queue for it."""
        if outgoing.is_unanswered:
            outgoing.properties["application_headers"][MAYBE_TWICE_HEADER] = True
        outgoing.is_unanswered = True
        try:
            tag = channel.publish(outgoing.body, outgoing.properties, outgoing.exchange, outgoing.routing_key)
            answer = channel.wait(tag, deadline)
        except amqp_errors.NotFound:
            outgoing.is_unanswered = False
            return False
        outgoing.is_unanswered = False
        if answer.outcome is Outcome.REFUSED:
            raise outgoing.refused(QueueFull, answer.reason)
        return answer.outcome is Outcome.CONFIRMED

    def _ensure_lanes(self, channel: ConfirmChannel, outgoing: Outgoing, deadline: float) -> None:
        """Make sure of the lanes on the way before the message needs them."""
        try:
            lanes.ensure(channel.connection, outgoing.delay.lanes, channel.lanes, self._names.prefix, deadline)
        except BrokerError as error:
            way = ", ".join(self._names.lane(lane) for lane in outgoing.delay.lanes)
            reason = f"a delay lane of {way} is missing and could not be declared: {error}"
            raise outgoing.refused(NoRoute, reason) from error

    def _declare_path(self, channel: ConfirmChannel, outgoing: Outgoing, deadline: float) -> None:
        """Declare the queue and the lanes of a message that found no route."""
        if outgoing.spec is None:
            return
        connection = channel.connection
        channel.close()
        try:
            topology.declare(connection, work_topology([outgoing.spec], self._names.prefix))
            lanes.declare(connection, outgoing.delay.lanes, self._names.prefix, deadline)
        except BrokerError as error:
            missing = f"queue {outgoing.spec.broker_name!r}, or its binding or exchange,"
            raise outgoing.refused(NoRoute, f"{missing} is missing and could not be declared: {error}") from error


def _check_expiry(headers: Mapping[str, Any], delay: Delay) -> None:
    """Refuse a task that expires before it is due. A retry is let through: its worker would lose the task."""
    if not headers.get("expires") or not delay.seconds or headers.get("retries"):
        return
    due = datetime.fromisoformat(headers["eta"])
    if datetime.fromisoformat(headers["expires"]) <= due:
        raise InvalidDelay(f"expires must be after the task is due at {due.isoformat()}, got {headers['expires']}")


def _priority(spec: QueueSpec | None, task: str, priority: int | None) -> int | None:
    """Return the priority to send. Celery's own tasks (chord_unlock) hand on one that nobody asked for."""
    if spec is None:
        return priority
    if task.startswith("celery.") and not spec.has_priorities:
        return None
    return check_priority(spec, priority)
