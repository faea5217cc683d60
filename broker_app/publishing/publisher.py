"""Confirmed publishing: when the call returns, the broker has the task; otherwise it raises an exception.

`BrokerApp.send_task` passes every task to `Publisher.send`, including those of canvases, retries and chords.
"""

from __future__ import annotations

import math
import struct
import time
from contextvars import copy_context
from itertools import chain, repeat
from numbers import Real
from typing import TYPE_CHECKING, Any

from amqp import exceptions as amqp_errors
from celery import signals

from broker_app.broker import delay_lanes
from broker_app.broker.new_queues import NewQueues
from broker_app.errors import (
    BrokerError,
    BrokerUnreachable,
    InvalidDelay,
    NoRoute,
    PublishRefused,
    PublishTimeout,
    QueueFull,
)
from broker_app.publishing.message import MessageBuilder, announced
from broker_app.queues import Names, RoutingTable
from broker_app.queues.headers import MAYBE_TWICE_HEADER
from broker_app.wire.confirm_channel import BlockedError, ConfirmChannel, ConfirmOutcome, ConfirmTimeoutError
from broker_app.wire.connection import bounded, discard, open_connection
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    from celery import Celery
    from kombu.messaging import Producer

    from broker_app.errors import PublishError
    from broker_app.publishing.delayed_message import DelayedMessage
    from broker_app.publishing.group import GroupPublisher
    from broker_app.publishing.message import OutgoingMessage
    from broker_app.queues import Delay, QueueSpec

TIMEOUT_OPTIONS = ("confirm_timeout", "timeout")
"""Options that limit the duration of a call; the first one given wins."""

RETRY_INTERVALS_SECONDS = (0.0, 0.1, 0.2, 0.5, 1.0)
"""Pauses between connection attempts; the last one repeats until the time-out."""


MOST_CATCH_UPS = 3
"""Limit on moving a message to shorter delay lanes: declaring lanes takes time as well, but less each time."""


class Publisher:
    """Publishes tasks with publisher confirms and ``mandatory``, within a time limit.

    Args:
        app: The Celery app, for its serializer defaults and events.
        table: The declared queues.
        prefix: The prefix of names on the broker.
        timeout_seconds: Limit of one call, including waiting for a connection, connecting and retrying.

    Attributes:
        can_send_ahead: Whether a message may be sent before those before it are confirmed.
        new_queues: The queues that were just declared because a message needed them.
    """

    can_send_ahead = True

    def __init__(self, app: Celery, table: RoutingTable, prefix: str, timeout_seconds: float) -> None:
        self._app = app
        self._builder = MessageBuilder(app, table, prefix)
        self._names = Names(prefix)
        self._timeout_seconds = timeout_seconds
        self.new_queues = NewQueues()

    def send(self, producer: Producer, name: str, message: Any, **options: Any) -> None:
        """Publish a task message; replaces Celery's ``amqp.send_task_message``.

        The signals are sent in a copy of the caller's context: a receiver may set context variables, as
        OpenTelemetry does with its current span, and reset them only in the second signal. A failed call never
        sends the second signal.

        Args:
            producer: From the app's pool, or the caller's; its connection is used.
            name: The task's name.
            message: Celery's task message: headers, properties, body, sent event.
            **options: Celery's publishing options (queue, exchange, routing_key, priority, headers,
                serializer, compression, retry, retry_policy, confirm_timeout, …) and ours; see
                `MessageBuilder.pack`.

        Raises:
            RoutingError: The destination, priority or delay is invalid; nothing was sent.
            PublishError: The broker did not confirm it; the class says why, and whether the broker may have it.
        """
        context = copy_context()
        context.run(self._send, context, producer, name, message, options)

    def _send(
        self, context: Context, producer: Producer, name: str, message: Any, options: dict[str, Any]
    ) -> None:
        retry = options.pop("retry", None) is not False
        deadline = options.get("broker_app_began", time.monotonic()) + self.timeout_seconds(options)
        for option in TIMEOUT_OPTIONS:
            options.pop(option, None)
        keep, note = options.pop("broker_app_keep", None), options.pop("broker_app_note", None)
        group: GroupPublisher | None = options.pop("broker_app_group", None)
        outgoing = self._builder.pack(name, message, options)
        if keep is not None:  # `publish_many` sends it
            keep(outgoing, message, context)
            return
        if note is not None:  # `SingleCalls` makes a template of it
            note(outgoing, message)
        if group is not None and group.take(context, outgoing, message, deadline, retry=retry):
            return
        if self.send_packed(producer.connection, outgoing, deadline, retry=retry):
            self.tell(producer, outgoing, message, retry=retry)

    def send_packed(self, connection: Any, outgoing: OutgoingMessage, deadline: float, *, retry: bool) -> bool:
        """Publish a message that is ready to send, as `send`; return False if it was spooled instead."""
        with self._app.metrics.publication(outgoing.task, outgoing.spec) as publication:
            is_taken = self.hand_over(connection, outgoing, deadline, retry=retry)
            publication.is_taken = is_taken
        return is_taken

    def way(self, spec: QueueSpec, delay: Delay) -> tuple[str, str]:
        """Return the exchange and routing key that lead to a queue."""
        return self._builder.way(spec, delay)

    def timeout_seconds(self, options: Mapping[str, Any]) -> float:
        """Return the time limit of a call with these Celery options.

        Raises:
            InvalidDelay: ``confirm_timeout`` or ``timeout`` is not a number above 0.
        """
        given = [options[option] for option in TIMEOUT_OPTIONS if options.get(option) is not None]
        checked = [check_seconds("confirm_timeout", seconds) for seconds in given]
        return checked[0] if checked else self._timeout_seconds

    def tell(self, producer: Producer, outgoing: OutgoingMessage, message: Any, *, retry: bool = True) -> None:
        """Announce a confirmed message: send Celery's signal, and its event if it has one."""
        headers = outgoing.properties["application_headers"]
        where = announced(outgoing.spec, outgoing.exchange, outgoing.routing_key)
        signals.after_task_publish.send(sender=outgoing.task, body=message.body, headers=headers, **where)
        if message.sent_event:
            event = dict(message.sent_event, queue=outgoing.place, eta=headers.get("eta"), **where)
            self._app.amqp._event_dispatcher.publish("task-sent", event, producer, retry=retry)  # noqa: SLF001

    def hand_over(self, connection: Any, outgoing: OutgoingMessage, deadline: float, *, retry: bool) -> bool:
        """Deliver a message and return True; a `SpoolingPublisher` may spool it instead and return False."""
        self.deliver(connection, outgoing, deadline, retry=retry)
        return True

    def ensure_rest(self, channel: ConfirmChannel, outgoing: OutgoingMessage, deadline: float) -> None:
        """Shorten the delay to the time left and declare the matching lanes, right before publishing.

        Raises:
            PublishError: The lanes cannot be declared. Also the errors of the connection.
        """
        for _ in range(MOST_CATCH_UPS):
            outgoing.catch_up(self._builder.way)
            self._ensure_way(channel, outgoing, deadline)
            if not outgoing.is_behind:
                return

    def deliver(self, connection: Any, outgoing: OutgoingMessage, deadline: float, *, retry: bool = True) -> None:
        """Deliver one message to the broker, reconnecting if the connection is lost.

        A message that `is_refused_for_now` is sent again.

        Args:
            connection: A kombu connection, open or not.
            outgoing: The message.
            deadline: On the clock of `time.monotonic`.
            retry: Whether to retry after a lost connection. A message that is sent again carries
                `MAYBE_TWICE_HEADER`.

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
                    raise outgoing.refused(cls, error_text(error)) from error
                time.sleep(pause)
            except QueueFull:
                if not retry or not self.is_refused_for_now(outgoing) or time.monotonic() + pause >= deadline:
                    raise
                time.sleep(pause)

    def is_refused_for_now(self, outgoing: DelayedMessage) -> bool:
        """Return whether a refused message is to be sent again.

        A new queue or delay lane may have no leader for a moment (seen on 3.10). Lanes have no length limit.
        """
        if outgoing.delay.lanes or outgoing.spec is None:
            return bool(outgoing.delay.lanes)
        return outgoing.spec.broker_name in self.new_queues

    def _connect(self, connection: Any, outgoing: OutgoingMessage, deadline: float) -> None:
        if connection.connected and not ConfirmChannel.is_inherited(connection.connection):
            return
        try:
            open_connection(connection, self._app.conf.broker_connection_timeout, deadline)
        except connection.recoverable_connection_errors:
            raise
        except amqp_errors.AMQPError as error:
            raise outgoing.refused(BrokerUnreachable, error_text(error)) from error

    def _deliver_once(self, connection: Any, outgoing: OutgoingMessage, deadline: float) -> None:
        """Publish and wait for the answer; if there is no route, declare it and publish once more."""
        raw = connection.connection
        try:
            channel = ConfirmChannel.of(raw)
            channel.wait_until_unblocked(deadline)
            self.ensure_rest(channel, outgoing, deadline)  # right before publishing: lanes may expire
            if self._is_routed(channel, outgoing, deadline):
                return
            self._declare_path(channel, outgoing, deadline)
            if not self._is_routed(ConfirmChannel.of(raw), outgoing, deadline):
                raise outgoing.refused(
                    NoRoute, f"no queue takes {outgoing.routing_key!r} from {outgoing.exchange!r}"
                )
        except BlockedError as error:
            raise outgoing.refused(BrokerUnreachable, error_text(error)) from error
        except ConfirmTimeoutError as error:
            discard(connection)
            raise outgoing.refused(PublishTimeout, error_text(error)) from error
        except connection.recoverable_connection_errors:
            raise
        except (amqp_errors.AMQPError, BrokerError, struct.error) as error:
            discard(connection)
            raise refusal(outgoing, error) from error

    def _is_routed(self, channel: ConfirmChannel, outgoing: OutgoingMessage, deadline: float) -> bool:
        """Publish, and return False if the exchange or the queue is missing."""
        if time.monotonic() >= deadline:
            cls = PublishTimeout if outgoing.is_unanswered else BrokerUnreachable
            raise outgoing.refused(cls, "the time limit had passed before it could be sent")
        if outgoing.is_unanswered:
            outgoing.properties["application_headers"][MAYBE_TWICE_HEADER] = True
        outgoing.is_unanswered = True
        try:
            answer = channel.wait(outgoing.publish_on(channel), deadline)
        except amqp_errors.NotFound:
            outgoing.is_unanswered = False
            return False
        outgoing.is_unanswered = False
        if answer.outcome is ConfirmOutcome.REFUSED:
            raise outgoing.refused(QueueFull, answer.reason)
        return answer.outcome is ConfirmOutcome.CONFIRMED

    def _ensure_way(self, channel: ConfirmChannel, outgoing: OutgoingMessage, deadline: float) -> None:
        """Declare the message's delay lanes and its target queue before they are needed."""
        spec, held = outgoing.spec, outgoing.delay.lanes
        if not held or spec is None:
            return
        prefix, new = self._names.prefix, self.new_queues
        faults = delay_lanes.ensure(
            channel.connection, held, [spec], channel.seen, prefix, deadline, new_queues=new
        )
        if reason := delay_lanes.missing(faults, held, spec.broker_name, self._names.prefix):
            if not outgoing.wait_in_full(self._builder.way):
                raise outgoing.refused(NoRoute, reason)
            self._ensure_way(channel, outgoing, deadline)

    def _declare_path(self, channel: ConfirmChannel, outgoing: OutgoingMessage, deadline: float) -> None:
        """Declare the queue and lanes of a message that could not be routed."""
        spec = outgoing.spec
        if spec is None:
            return
        connection = channel.connection
        channel.close()
        try:
            with self.new_queues.declaring([spec.broker_name]):
                delay_lanes.declare(connection, outgoing.delay.lanes, self._names.prefix, deadline, [spec])
        except BrokerError as error:
            missing = f"queue {spec.broker_name!r}, or its binding or exchange,"
            raise outgoing.refused(NoRoute, f"{missing} is missing and could not be declared: {error}") from error


def refusal(outgoing: OutgoingMessage, error: Exception) -> PublishError:
    """Return the error for a message that was not published, with the broker's reply or the encoding error."""
    if isinstance(error, struct.error):  # from packing a length; py-amqp does not say which value is too long
        return outgoing.refused(PublishRefused, f"AMQP cannot carry it: {error} (names have at most 255 bytes)")
    return outgoing.refused(PublishRefused, error_text(error))


def check_seconds(name: str, seconds: object) -> float:
    """Return a caller's time-out as a float.

    Raises:
        InvalidDelay: It is not a finite number above 0.
    """
    is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not is_number or not 0 < float(seconds) < math.inf:  # type: ignore[arg-type]  # checked just before
        raise InvalidDelay(f"{name} must be a number of seconds above 0, got {seconds!r}")
    return float(seconds)  # type: ignore[arg-type]
