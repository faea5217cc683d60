"""Queue scan: read a queue once from its head, and requeue the messages that were not removed in their order.

AMQP cannot read a message without taking it: a message is delivered, and requeued unless it is acknowledged. Its
position afterwards depends on how it is requeued (measured on 3.10.8 and 4.3.6; see
tests/integration/messages/test_scan.py):

- A classic queue always puts a message back in its original position.
- A quorum queue delivers requeued messages first, in the order in which they were requeued. So messages requeued
  by an earlier scan must be read to their end, or the messages of this scan would go behind them.
- For messages requeued in one command, 3.10 keeps the order of up to 32 and shuffles more (keys of an Erlang map).
  Each ``basic.get`` acts as a consumer, and both versions shuffle more than 32 of those. So we consume, and
  requeue in groups.
- Messages in flight to a cancelled consumer are requeued behind the others. So a consumer is cancelled only when
  no message can be in flight: its prefetch is used up, or the queue is empty.
- Messages delivered to several consumers are requeued consumer by consumer. So only one consumes at a time.
- From RabbitMQ 4.3 on a nack does not count as a failed delivery; a reject and a closed channel do.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from broker_app.errors import BrokerError
from broker_app.queues.headers import COUNT_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import pika

    from broker_app.messages.channel import CallbackChannel

WINDOW = 256
"""Prefetch of a consumer: messages delivered but not read yet, or sent but not confirmed yet. This process holds
the bodies of at most two such windows."""

GROUP = 32
"""Messages requeued in one command: the most whose order 3.10 keeps."""

_GROUPS_AT_ONCE = 8
"""Commands between checks of the queue: RabbitMQ's quorum client merges many pending ones and reorders them."""

_IDLE_SECONDS = 0.2
_LAST_SECONDS = 2.0
"""Time to wait for messages in flight once the queue is empty."""

_STUCK_SECONDS = 30.0
_RETURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ScannedMessage:
    """A message delivered to a scan and not acknowledged yet.

    Attributes:
        tag: The delivery tag.
        consumer: The number of our consumer that received it, from 1.
        routing_key: The routing key with which it was routed into the queue.
        is_redelivered: Whether it was delivered before.
        properties: AMQP basic properties, including the headers.
        body: The serialised body.
    """

    tag: int
    consumer: int
    routing_key: str
    is_redelivered: bool
    properties: pika.BasicProperties
    body: bytes

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers, empty if it has none."""
        return self.properties.headers or {}

    @property
    def is_requeued(self) -> bool:
        """True if a quorum queue delivered it from its requeued messages."""
        return self.is_redelivered and not COUNT_HEADERS.isdisjoint(self.headers)


class QueueScan:
    """A context manager that delivers each current message of a queue once, and requeues the rest at its end.

    Each delivery must be either kept or removed. For a kept message this process stores only its delivery tag,
    eight bytes; the broker holds it as unacknowledged until the block ends.

    Args:
        link: An open channel without other consumers.
        queue: The queue's name on the broker.
        limit: The maximum number of messages to read.

    Attributes:
        total: The number of messages to read: those in the queue at the start, at most ``limit``.

    Raises:
        NotOnBroker: No such queue.
        BrokerError: The broker refused, or the connection was lost; every message that was not removed is still in
            the queue.
    """

    def __init__(self, link: CallbackChannel, queue: str, limit: int | None = None) -> None:
        self._link = link
        self._queue = queue
        self._limit = limit
        self._consumer = 0  # the number of the current consumer
        self._window = WINDOW
        self._unsettled = 0  # delivered to it, neither acknowledged nor requeued
        self._confirmed: list[int] = []  # to acknowledge once it is cancelled
        self._is_ending = False
        self._arrived: deque[ScannedMessage] = deque()
        self._kept: list[array[int]] = []  # delivery tags, by consumer
        self._is_among_requeued = False
        self.total = 0

    def __enter__(self) -> Self:
        waiting = self._ready()
        self.total = waiting if self._limit is None else min(self._limit, waiting)
        if self.total:
            self._consume(min(self.total, WINDOW))
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if cls is None:
            self._requeue_all()

    def batches(self) -> Iterator[list[ScannedMessage]]:
        """Yield the delivered messages in queue order, until ``total`` were read or the queue is empty."""
        left = self.total
        while left and self._wait():
            batch = [self._arrived.popleft() for _ in range(min(left, len(self._arrived)))]
            left -= len(batch)
            yield batch

    def keep(self, delivery: ScannedMessage) -> None:
        """Leave a message in the queue; it is requeued at the end of the block."""
        self._kept[delivery.consumer - 1].append(delivery.tag)
        if delivery.consumer == self._consumer and len(self._kept[-1]) * 2 >= self._window:
            self._is_ending = True

    def remove(self, delivery: ScannedMessage) -> None:
        """Acknowledge a message, at once or as soon as its consumer has used up its prefetch."""
        if delivery.consumer == self._consumer and self._is_ending:
            self._confirmed.append(delivery.tag)
            return
        with self._link.refusals():
            self._link.channel.basic_ack(delivery.tag)
        if delivery.consumer == self._consumer:
            self._unsettled -= 1

    def _wait(self) -> bool:
        """Wait until a message has arrived; return False if the queue is empty."""
        give_up = time.monotonic() + _STUCK_SECONDS
        while not self._arrived:
            if self._unsettled == self._window and self._is_ending:
                self._cancel()
                self._acknowledge()
                self._consume(WINDOW)
            if self._link.wait(lambda: bool(self._arrived), _IDLE_SECONDS):
                break
            if not self._ready():
                return self._link.wait(lambda: bool(self._arrived), _LAST_SECONDS)
            if time.monotonic() > give_up:
                raise BrokerError(
                    f"queue {self._queue!r}: it has messages but delivers none; check the broker's alarms, and "
                    f"whether another consumer is the single active one"
                )
        return True

    def _ready(self) -> int:
        answer = self._link.ask(self._link.channel.queue_declare, self._queue, passive=True)
        return int(answer.message_count)

    def _consume(self, window: int) -> None:
        self._consumer += 1
        self._window, self._unsettled, self._is_ending = window, 0, False
        self._kept.append(array("Q"))
        self._link.ask(self._link.channel.basic_qos, prefetch_count=window)
        self._link.ask(
            self._link.channel.basic_consume,
            self._queue,
            self._link.waking(self._on_delivery),
            consumer_tag=_tag(self._consumer),
        )

    def _cancel(self) -> None:
        """Cancel the consumer, but still accept messages in flight, which pika would reject."""
        channel, tag = self._link.channel, _tag(self._consumer)
        if tag in channel.consumer_tags:  # otherwise the broker cancelled it: the queue was deleted
            answers: list[Any] = []
            with self._link.refusals():
                channel.basic_cancel(tag, callback=self._link.waking(answers.append))
            channel._cancelled.discard(tag)  # noqa: SLF001 - pika has no public way to accept them
            if not self._link.wait(lambda: bool(answers), _STUCK_SECONDS):
                raise BrokerError(f"queue {self._queue!r}: the broker did not cancel our consumer")

    def _acknowledge(self) -> None:
        with self._link.refusals():
            for tag in self._confirmed:
                self._link.channel.basic_ack(tag)
        self._confirmed.clear()

    def _on_delivery(self, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        delivery = ScannedMessage(
            method.delivery_tag, self._consumer, method.routing_key, method.redelivered, properties, body
        )
        self._arrived.append(delivery)
        self._unsettled += 1
        self._is_among_requeued = delivery.is_requeued

    def _requeue_all(self) -> None:
        """Requeue the messages that were kept or not read, in their order."""
        if not self._consumer:
            return
        self._keep_arrived()
        while self._is_among_requeued and self._ready() and self._wait():
            self._keep_arrived()  # otherwise it would come before the messages requeued now
        self._is_ending = True
        while self._unsettled < self._window and self._ready():
            self._link.wait(lambda: bool(self._arrived), _IDLE_SECONDS)
            self._keep_arrived()
        self._cancel()
        self._keep_arrived()
        self._requeue_groups()
        self._acknowledge()

    def _keep_arrived(self) -> None:
        while self._arrived:
            self.keep(self._arrived.popleft())

    def _requeue_groups(self) -> None:
        """Requeue in groups, and regularly wait until the queue has them.

        While the last consumer has removed messages to acknowledge, its groups are single messages, since a
        ``multiple`` nack would requeue those too. They are acknowledged last, because a hundred pending
        acknowledgements would make RabbitMQ merge the groups.
        """
        expected, patience_seconds = self._ready(), _RETURN_SECONDS
        groups = list(self._groups())
        for number, group in enumerate(groups, 1):
            with self._link.refusals():
                self._link.channel.basic_nack(group[-1], multiple=len(group) > 1, requeue=True)
            expected += len(group)
            if number % _GROUPS_AT_ONCE == 0 or number == len(groups):
                is_back = self._has_depth(expected, patience_seconds)
                patience_seconds = patience_seconds if is_back else 0.0  # other consumers take from it meanwhile
        self._kept.clear()

    def _groups(self) -> Iterator[array[int]]:
        """Yield the kept delivery tags in order, each group from one consumer."""
        for number, tags in enumerate(self._kept, 1):
            size = 1 if number == self._consumer and self._confirmed else GROUP
            ordered = array("Q", sorted(tags))  # messages refused by their target were kept late
            yield from (ordered[start : start + size] for start in range(0, len(ordered), size))

    def _has_depth(self, depth: int, patience_seconds: float) -> bool:
        """Wait until the queue has ``depth`` ready messages; return False if it takes too long."""
        deadline = time.monotonic() + patience_seconds
        while self._ready() < depth:
            if time.monotonic() >= deadline:
                return False
        return True


def _tag(consumer: int) -> str:
    return f"broker-app-{consumer}"
