"""Outgoing messages: built from Celery's task message, with destination, priority and headers checked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.time import maybe_make_aware

from broker_app.errors import CallError, InvalidDelay, InvalidPriority, PublishError, RoutingError
from broker_app.publishing import trace_context
from broker_app.publishing.delayed_message import DelayedMessage
from broker_app.publishing.encoding import check_serializer, compress, encode
from broker_app.publishing.validation import check_form, check_limits
from broker_app.queues import Names, QueueSpec, RoutingTable
from broker_app.queues.delay import NO_DELAY, UNITS, Delay, parse_routing_key
from broker_app.queues.headers import (
    BROKER_HEADERS,
    DELAY_HEADER,
    MAYBE_TWICE_HEADER,
    PERSISTENT,
    PUBLISHED_AT_HEADER,
)
from broker_app.queues.spec import MAX_PRIORITY, MIN_PRIORITY, check_priority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from celery import Celery

    from broker_app.wire.confirm_channel import ConfirmChannel


MESSAGE_OPTIONS = frozenset({"app_id", "cluster_id", "message_id", "reply_to", "timestamp", "type", "user_id"})
"""AMQP basic properties that a caller may set. ``expiration`` is not one of them: the broker would dead-letter an
expired task and its result would stay pending; the worker checks ``expires`` instead and reports REVOKED."""


@dataclass(slots=True)
class OutgoingMessage(DelayedMessage):
    """One message that is ready to send.

    Attributes:
        task: The task's name.
        task_id: Its id.
        exchange: The exchange to publish to.
        routing_key: At most 255 bytes.
        body: Serialised.
        properties: AMQP basic properties, headers included.
        is_unanswered: Whether it was sent and the broker has not answered yet.
    """

    task: str
    task_id: str
    exchange: str
    routing_key: str
    body: bytes
    properties: dict[str, Any]
    is_unanswered: bool = False

    def _redirect(self, exchange: str, routing_key: str) -> None:
        self.exchange, self.routing_key = exchange, routing_key

    @property
    def address(self) -> tuple[str, str]:
        """Exchange and routing key."""
        return self.exchange, self.routing_key

    @property
    def place(self) -> str:
        """The queue, or exchange and routing key, for display."""
        return self.spec.name if self.spec else f"{self.exchange}/{self.routing_key}"

    def publish_on(self, channel: ConfirmChannel) -> int:
        """Send it on a channel, and return its tag; see `ConfirmChannel.publish`."""
        return channel.publish(self.body, self.properties, self.exchange, self.routing_key)

    def refused(self, cls: type[PublishError], reason: object) -> PublishError:
        """Return the error for a message that the broker did not accept."""
        return cls(task=self.task, task_id=self.task_id, queue=self.place, reason=str(reason))


class MessageBuilder:
    """Builds outgoing messages from Celery's task messages.

    Args:
        app: The Celery app, for its serializer and compression.
        table: The declared queues.
        prefix: The prefix of names on the broker.
    """

    def __init__(self, app: Celery, table: RoutingTable, prefix: str) -> None:
        self._app = app
        self._table = table
        self._names = Names(prefix)
        self._delaying = {self._names.delay, *(self._names.hop(level) for level in range(1, len(UNITS) + 1))}

    def pack(self, name: str, message: Any, options: dict[str, Any]) -> OutgoingMessage:
        """Return a message that is ready to send.

        Args:
            name: The task's name.
            message: Celery's task message.
            options: Celery's publishing options, ``broker_app_delay``, and ``broker_app_began``: the start of the
                call on the clock of `time.monotonic`. Options that are used are removed.

        Raises:
            RoutingError: The destination, priority or delay is invalid.
            CallError: Another option is invalid.
            NotEncodable: An argument cannot be encoded.
        """
        delay: Delay = options.pop("broker_app_delay", None) or NO_DELAY
        began: float = options.pop("broker_app_began", None) or time.monotonic()
        spec, exchange, routing_key = self._destination(options, delay)
        headers = dict(message.headers, **options.pop("headers", None) or {})
        for stale in (MAYBE_TWICE_HEADER, *BROKER_HEADERS):  # a retry copies the headers of its last message
            headers.pop(stale, None)
        _check_call(name, message.headers, message.body)
        # A delay counts from the start of the call, which may have waited since.
        headers[PUBLISHED_AT_HEADER] = time.time() - (time.monotonic() - began if delay.seconds else 0.0)
        headers[DELAY_HEADER] = delay.seconds
        trace_context.inject(headers)
        _check_expiry(headers, delay, self._app.timezone)
        priority = self._priority(spec, name, options.pop("priority", None), headers)
        properties = dict(message.properties, priority=priority)
        properties.update((option, options[option]) for option in MESSAGE_OPTIONS & options.keys())
        compression = options.pop("compression", None)
        serializer = options.pop("serializer", None) or self._app.conf.task_serializer
        queue = f"{exchange}/{routing_key}" if spec is None else spec.name
        if spec is not None:  # the consumers of another exchange are not ours
            check_serializer(name, serializer, self._app.conf.accept_content)
        signals.before_task_publish.send(
            sender=name,
            body=message.body,
            **announced(spec, exchange, routing_key),
            declare=[],
            headers=headers,
            properties=properties,
            retry_policy=options.pop("retry_policy", None) or {},
        )
        body, encoded = encode(message.body, serializer, name, queue)
        if compression := compression or self._app.conf.task_compression:
            body, headers["compression"] = compress(body, compression, name)
        return OutgoingMessage(
            task=name,
            task_id=properties["correlation_id"],
            spec=spec,
            delay=delay,
            exchange=exchange,
            routing_key=routing_key,
            body=body,
            properties=dict(properties, **encoded, application_headers=headers, delivery_mode=PERSISTENT),
            due=began + delay.seconds if delay.lanes else None,
        )

    def way(self, spec: QueueSpec, delay: Delay) -> tuple[str, str]:
        """Return the exchange and routing key that lead to a queue."""
        if delay.lanes:
            return self._names.delay, delay.routing_key(spec.broker_name)
        return self._names.tasks, spec.broker_name

    def _destination(self, options: dict[str, Any], delay: Delay) -> tuple[QueueSpec | None, str, str]:
        """Return the queue's spec, the exchange and the routing key.

        With one of our exchanges, a routing key is a queue's name on the broker. A retried task has the exchange
        and key it was delivered with: after a delay, the exchange of its last lane, and a key in which the delay
        precedes the queue's name.
        """
        queue, exchange, key = (options.pop(name, None) for name in ("queue", "exchange", "routing_key"))
        exchange = getattr(exchange, "name", exchange)
        if exchange and exchange not in {self._names.tasks, *self._delaying}:
            if delay.lanes:
                raise RoutingError(f"exchange {exchange!r}: expected a declared queue for a countdown; use queue=")
            return None, exchange, key or ""
        if key and exchange in self._delaying:
            key = parse_routing_key(key)[1]
        spec = self._table.queue(key or getattr(queue, "name", queue) or self._table.default)
        return spec, *self.way(spec, delay)

    def _priority(
        self, spec: QueueSpec | None, task: str, priority: int | None, headers: Mapping[str, Any]
    ) -> int | None:
        """Return the priority to send; an inherited or default priority is dropped if the queue has no priorities.

        Celery copies a message's priority to each retry (kombu sends 0 by default), and a parent's priority to its
        children if ``task_inherit_parent_priority`` is set. Refusing it would fail a task that has already run.
        """
        if spec is None or priority is None:
            return _foreign_priority(priority) if spec is None else check_priority(spec, None)
        conf = self._app.conf
        is_inherited = (
            bool(headers.get("retries"))
            or task.startswith("celery.")
            or bool(headers.get("parent_id") and conf.task_inherit_parent_priority)
        )
        if not spec.has_priorities and (is_inherited or priority == conf.task_default_priority):
            return None
        if is_inherited and isinstance(priority, int):  # another client may have sent up to 255
            priority = min(max(priority, MIN_PRIORITY), MAX_PRIORITY)
        return check_priority(spec, priority)


def _foreign_priority(priority: int | None) -> int | None:
    if priority is not None and not isinstance(priority, int):
        raise InvalidPriority(f"priority: expected a whole number, got {priority!r}")
    return priority


def _check_call(name: str, headers: Mapping[str, Any], body: Any) -> None:
    """Refuse options that no worker accepts. Retries pass: refusing one would lose the task."""
    if "id" not in headers or headers.get("retries"):  # protocol 1 has no headers
        return
    try:
        check_form(headers, body)
        check_limits(headers.get("timelimit", (None, None)))
    except InvalidTaskError as error:
        raise CallError(f"task {name}: {error}; correct this option of the call") from None


def _check_expiry(headers: Mapping[str, Any], delay: Delay, zone: tzinfo) -> None:
    """Refuse a task that expires before it is due. Retries pass: refusing one would lose the task."""
    if not headers.get("expires") or not delay.seconds or headers.get("retries"):
        return
    due = datetime.fromisoformat(headers["eta"])
    if maybe_make_aware(datetime.fromisoformat(headers["expires"]), zone) <= due:
        raise InvalidDelay(f"expires must be after the task is due at {due.isoformat()}, got {headers['expires']}")


def announced(spec: QueueSpec | None, exchange: str, routing_key: str) -> dict[str, str]:
    """Return the exchange and routing key for signals and events: those of the queue, ignoring delay lanes."""
    if spec is not None:
        exchange, routing_key = Names(spec.prefix).tasks, spec.broker_name
    return {"exchange": exchange, "routing_key": routing_key}
