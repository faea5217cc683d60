"""Moving messages between queues: each is acknowledged in its source after it is confirmed in its destination."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import amqp

from broker_app.broker.declare import queue_depth
from broker_app.errors import BrokerError, NotOnBroker
from broker_app.queues.headers import COUNT_HEADERS, MAYBE_TWICE_HEADER
from broker_app.wire.confirm_channel import ConfirmChannel, ConfirmOutcome
from broker_app.wire.errors import error_text
from broker_app.wire.field_tables import accept_undecodable

if TYPE_CHECKING:
    from collections.abc import Callable


WINDOW = 500
"""Messages in flight at once; after a kill this many may be in both queues."""

LOW_CONSUMER_PRIORITY = {"x-priority": -10}
"""Workers with a free slot are served first (rabbitmq.com/docs/consumer-priority)."""

_CONSUMER = "broker-app-mover"

_IDLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Destination:
    """The destination of moved messages.

    Attributes:
        exchange: The exchange; empty for the default one.
        routing_key: The routing key; None keeps each message's own.
        is_direct: Returns, for a message's exchange, whether a producer published the message straight to the
            source while both queues were bound; it may then be in both.
    """

    exchange: str
    routing_key: str | None
    is_direct: Callable[[str], bool]


def move(
    connection: amqp.Connection,
    source: str,
    destination: Destination,
    limit: int | None,
    told: Callable[[int], None],
) -> int:
    """Move the messages of a queue in order until it is empty, and return their number.

    An interrupted move loses nothing: at most `WINDOW` messages are in both queues. They are redelivered to the
    next move, which marks them with `MAYBE_TWICE_HEADER`.

    Args:
        connection: An open py-amqp connection; two channels are opened on it.
        source: The source queue.
        destination: The destination queue.
        limit: Stop soon after this many messages; None for no limit.
        told: Progress callback: the number of messages moved so far.

    Raises:
        NotOnBroker: The queue was deleted.
        BrokerError: The destination refused a message, which stays in its source.
        amqp.AMQPError, OSError: The connection was lost.
    """
    mover = _Mover(connection, source, destination)
    try:
        mover.run(limit, told)
    except amqp.NotFound as error:
        raise NotOnBroker(f"queue {source!r}: the broker answered {error_text(error)}") from error
    finally:
        mover.close()
    return mover.moved


class _Mover:
    """Consumes on one channel and publishes with confirms on another; acknowledges confirmed messages in order."""

    def __init__(self, connection: amqp.Connection, source: str, destination: Destination) -> None:
        self.moved = 0
        accept_undecodable()  # undecodable messages are moved unchanged
        self._connection, self._source, self._destination = connection, source, destination
        self._taking, self._giving = connection.channel(), ConfirmChannel(connection)
        self._taking.auto_decode = False  # bodies are moved unchanged
        self._confirmed: set[int] = set()
        self._received: deque[amqp.Message] = deque()
        self._waiting: deque[tuple[int, int]] = deque()  # publishing tag, delivery tag
        self._is_cancelled = False

    def run(self, limit: int | None, told: Callable[[int], None]) -> None:
        self._taking.basic_qos(0, WINDOW, a_global=False)
        self._taking.basic_consume(
            self._source,
            consumer_tag=_CONSUMER,
            callback=self._received.append,
            on_cancel=self._on_cancel,
            arguments=LOW_CONSUMER_PRIORITY,
        )
        last = 0
        while not (limit is not None and self.moved >= limit) and not self._is_done():
            if self.moved >= last + WINDOW:
                told(last := self.moved)
        self._taking.basic_cancel(_CONSUMER)
        self._publish()  # messages delivered before the cancellation
        while self._waiting:
            self._drain()
        told(self.moved)

    def close(self) -> None:
        """Close the channels, unless confirms are outstanding; the connection must then be dropped."""
        if self._waiting:
            return
        if self._taking.connection is not None and self._taking.is_open:
            self._taking.close()
        self._giving.close()

    def _is_done(self) -> bool:
        if self._drain() or self._waiting:
            return False
        return not queue_depth(self._connection, self._source)

    def _drain(self) -> bool:
        """Process pending events and return whether there were any."""
        try:
            self._connection.drain_events(timeout=_IDLE_SECONDS)
        except TimeoutError:
            return False
        if self._is_cancelled:
            raise NotOnBroker(
                f"queue {self._source!r}: it was deleted while its messages were being moved; run it again"
            )
        self._publish()
        return True

    def _publish(self) -> None:
        """Publish the received messages, and acknowledge those that are confirmed.

        Not in their callback, since py-amqp keeps reading while it publishes.
        """
        while self._received:
            message = self._received.popleft()
            info, destination = message.delivery_info, self._destination
            key = info["routing_key"] if destination.routing_key is None else destination.routing_key
            tag = self._giving.publish(message.body, self._properties(message), destination.exchange, key)
            self._waiting.append((tag, info["delivery_tag"]))
        self._settle()

    def _settle(self) -> None:
        """Acknowledge the messages up to the first one that is not confirmed.

        A return may be matched to an older message with the same address, never to a younger one, so a message
        that is not in its destination is never acknowledged.
        """
        failed = ""
        for tag, answer in self._giving.take_answers().items():
            if answer.outcome is ConfirmOutcome.CONFIRMED:
                self._confirmed.add(tag)
            else:
                failed = failed or answer.reason
        last = None
        while self._waiting and self._waiting[0][0] in self._confirmed:
            published, last = self._waiting.popleft()
            self._confirmed.discard(published)
            self.moved += 1
        if last is not None:
            self._taking.basic_ack(last, multiple=True)
        if failed:
            raise BrokerError(f"queue {self._source!r}: {failed}; messages that were not moved stay there")

    def _properties(self, message: amqp.Message) -> dict[str, Any]:
        """Return the properties to send: all except ``user_id``, which would have to be ours."""
        info = message.delivery_info
        headers = dict(message.properties.get("application_headers") or {})
        for counter in COUNT_HEADERS:
            headers.pop(counter, None)
        if info["redelivered"] or self._destination.is_direct(info["exchange"]):
            headers[MAYBE_TWICE_HEADER] = True
        properties = {name: value for name, value in message.properties.items() if name != "user_id"}
        return properties | {"application_headers": headers}

    def _on_cancel(self, tag: str) -> None:
        del tag
        self._is_cancelled = True
