"""Read a queue once, from its head: what is not taken out of it goes back to where it stood.

AMQP knows no look without taking: a message is delivered, and handed back unless it is acknowledged. How that is
done decides about its place (measured on 3.10.8 and 4.3.6; tests/integration/messages/test_scan.py shows it):

- A classic queue puts each back where it stood, whatever is done.
- A quorum queue hands out first what came back, in the order in which it came back. So what stands there from an
  earlier look must be read to its end, or this look's messages would come behind it.
- Of what comes back in one command, 3.10 keeps the order of 32 messages, and shuffles more (keys of an Erlang
  map); many ``basic.get`` are as many consumers, of which both versions shuffle more than 32. So we consume, and
  hand back in groups.
- What is on its way to a consumer that is cancelled goes back behind the others. So a consumer is cancelled only
  when nothing can be on its way: its prefetch is used up, or the queue is empty.
- What came to several consumers goes back consumer by consumer. So one consumes at a time.
- From RabbitMQ 4.3 on a nack does not count as a failed delivery; a reject and a closed channel do.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from broker_app.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import pika

    from broker_app.messages.channel import CallbackChannel

WINDOW = 256
"""Messages that a consumer is given at once: delivered and not looked at, or sent and not confirmed. This process
holds at most two such windows of whole messages."""

GROUP = 32
"""Messages that go back in one command: the most that 3.10 keeps in their order."""

_GROUPS_AT_ONCE = 8
"""Commands before the queue is asked: many unanswered ones RabbitMQ's quorum client joins, in another order."""

_QUORUM_HEADERS = frozenset({"x-delivery-count", "x-acquired-count"})
"""What a quorum queue says in a message that it delivers again."""

_IDLE_SECONDS = 0.2
_LAST_SECONDS = 2.0
"""How long a message may be on its way from an empty queue."""

_STUCK_SECONDS = 30.0
_RETURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ScannedMessage:
    """A message in our hand.

    Attributes:
        tag: What it is acknowledged by.
        consumer: Which of our consumers it came to, counted from 1.
        routing_key: By which it came into the queue.
        is_redelivered: Whether it was in somebody's hand before.
        properties: AMQP basic properties, the headers among them.
        body: Serialised.
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
    def has_come_back(self) -> bool:
        """Whether a quorum queue has it among those that were handed back."""
        return self.is_redelivered and not _QUORUM_HEADERS.isdisjoint(self.headers)


class QueueScan:
    """The messages that stand in a queue now, each delivered once; a block, at whose end the rest goes back.

    Each delivery must be either kept or removed. Of a kept one this process holds its number only, eight bytes;
    the broker holds it as unacknowledged until the block ends.

    Args:
        link: An open link; it must not consume anything else.
        queue: Its name on the broker.
        limit: Look at no more than so many.

    Attributes:
        total: How many there are to be read: what stood there at the start, at most ``limit``.

    Raises:
        NotOnBroker: No such queue.
        BrokerError: The broker refused, or the connection was lost; all that was not removed is in the queue.
    """

    def __init__(self, link: CallbackChannel, queue: str, limit: int | None = None) -> None:
        self._link = link
        self._queue = queue
        self._limit = limit
        self._consumer = 0  # the number of the one that consumes
        self._window = WINDOW
        self._unsettled = 0  # delivered to it, neither acknowledged nor handed back
        self._confirmed: list[int] = []  # to be acknowledged when it is cancelled
        self._is_ending = False
        self._arrived: deque[ScannedMessage] = deque()
        self._kept: list[array[int]] = []  # tags, by consumer
        self._is_among_returned = False
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
            self._hand_back()

    def batches(self) -> Iterator[list[ScannedMessage]]:
        """Yield what has come, in the queue's order, until all were there or the queue has no more."""
        left = self.total
        while left and self._wait():
            batch = [self._arrived.popleft() for _ in range(min(left, len(self._arrived)))]
            left -= len(batch)
            yield batch

    def keep(self, delivery: ScannedMessage) -> None:
        """Leave a message in the queue: it goes back at the end of the block."""
        self._kept[delivery.consumer - 1].append(delivery.tag)
        if delivery.consumer == self._consumer and len(self._kept[-1]) * 2 >= self._window:
            self._is_ending = True

    def remove(self, delivery: ScannedMessage) -> None:
        """Take a message out of the queue; at once, or as soon as its consumer is used up."""
        if delivery.consumer == self._consumer and self._is_ending:
            self._confirmed.append(delivery.tag)
            return
        with self._link.refusals():
            self._link.channel.basic_ack(delivery.tag)
        if delivery.consumer == self._consumer:
            self._unsettled -= 1

    def _wait(self) -> bool:
        """Wait until something has arrived; False if the queue has nothing more for us."""
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
                    f"queue {self._queue!r}: it has messages and hands out none; look for alarms, and for another "
                    f"consumer that is the only active one"
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
            self._link.heard(self._on_delivery),
            consumer_tag=_tag(self._consumer),
        )

    def _cancel(self) -> None:
        """Consume no more. Should something be on its way all the same, it may arrive; pika would reject it."""
        channel, tag = self._link.channel, _tag(self._consumer)
        if tag in channel.consumer_tags:  # else the broker has cancelled it: the queue was deleted
            answers: list[Any] = []
            with self._link.refusals():
                channel.basic_cancel(tag, callback=self._link.heard(answers.append))
            channel._cancelled.discard(tag)  # noqa: SLF001 - pika has no other way to let it arrive
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
        self._is_among_returned = delivery.has_come_back

    def _hand_back(self) -> None:
        """Return what was kept or not looked at, in its order."""
        if not self._consumer:
            return
        self._keep_arrived()
        while self._is_among_returned and self._ready() and self._wait():
            self._keep_arrived()  # it would stand before what we hand back now
        self._is_ending = True
        while self._unsettled < self._window and self._ready():
            self._link.wait(lambda: bool(self._arrived), _IDLE_SECONDS)
            self._keep_arrived()
        self._cancel()
        self._keep_arrived()
        self._return()
        self._acknowledge()

    def _keep_arrived(self) -> None:
        while self._arrived:
            self.keep(self._arrived.popleft())

    def _return(self) -> None:
        """Hand back in groups; after some of them wait until the queue has them.

        Where there is still something to be acknowledged, a group is one message: it would go back with others. It
        is acknowledged last: a hundred acknowledgements on their way would make RabbitMQ join the groups.
        """
        expected, patience_seconds = self._ready(), _RETURN_SECONDS
        groups = list(self._groups())
        for number, group in enumerate(groups, 1):
            with self._link.refusals():
                self._link.channel.basic_nack(group[-1], multiple=len(group) > 1, requeue=True)
            expected += len(group)
            if number % _GROUPS_AT_ONCE == 0 or number == len(groups):
                is_back = self._has_depth(expected, patience_seconds)
                patience_seconds = patience_seconds if is_back else 0.0  # others take from it at the same time
        self._kept.clear()

    def _groups(self) -> Iterator[array[int]]:
        """Yield the tags that are kept, in their order, each group of one consumer."""
        for number, tags in enumerate(self._kept, 1):
            size = 1 if number == self._consumer and self._confirmed else GROUP
            ordered = array("Q", sorted(tags))  # what was refused elsewhere was kept late
            yield from (ordered[start : start + size] for start in range(0, len(ordered), size))

    def _has_depth(self, depth: int, patience_seconds: float) -> bool:
        """Wait until the queue has so many messages ready."""
        deadline = time.monotonic() + patience_seconds
        while self._ready() < depth:
            if time.monotonic() >= deadline:
                return False
        return True


def _tag(consumer: int) -> str:
    return f"broker-app-{consumer}"
