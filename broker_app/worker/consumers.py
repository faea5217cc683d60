"""Consumers: consumer time-outs, pauses, a changing prefetch, and recovery of consumers that the broker cancelled.

RabbitMQ fixes a consumer's prefetch when it begins to consume (rabbitmq.com/docs/consumer-prefetch), and a
consumer that is cancelled leaves its unacknowledged messages here. So a worker that may hold more messages
consumes its queue once more, on the same channel: what it may hold is the sum of its consumers' prefetches. To
hold fewer again, it cancels all of them, and consumes with a prefetch that counts the messages it still holds.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.exceptions import AMQPError

from broker_app.broker.declare import declare_topology
from broker_app.errors import BrokerError
from broker_app.queues import QueueType, work_topology
from broker_app.queues.rabbitmq import DEFAULT_CONSUMER_TIMEOUT_SECONDS, QUORUM_TIMEOUT_VERSION
from broker_app.wire.connection import bounded
from broker_app.wire.errors import error_text, server_version

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from kombu.entity import Queue
    from kombu.message import Message
    from kombu.messaging import Consumer

    from broker_app.settings import Settings

TIMEOUT_ARGUMENT = "x-consumer-timeout"
"""Consumer time-out in milliseconds, for quorum queues, since RabbitMQ 4.3
(rabbitmq.com/docs/quorum-queues#consumer-timeout). Older brokers ignore the argument."""

MARGIN_SECONDS = 60.0

ANSWER_SECONDS = 30.0
"""Longest wait for the broker, which blocks the worker's loop; after that the worker reconnects."""

_QOS = "lBb"
"""prefetch-size, prefetch-count, global; py-amqp's own call waits for the answer."""

logger = logging.getLogger(__name__)


class Consumers:
    """A worker's consumers on one connection.

    Args:
        settings: The app's settings.
        consumer: Celery's task consumer.
        prefetch: Messages prefetched for each slot of the worker.
        limit: The channel's prefetch, with which each queue is consumed.
        is_helping: Whether the queues belong to other workers and are consumed only at times; pauses and
            resumptions are then logged at the debug level.

    Attributes:
        is_narrowed: True after `narrow`, until the consumers may hold as much as one with the channel's prefetch.
    """

    def __init__(
        self, settings: Settings, consumer: Consumer, *, prefetch: int, limit: int, is_helping: bool = False
    ) -> None:
        self._consumer: Any = consumer
        self._level = logging.DEBUG if is_helping else logging.INFO
        self._prefix = settings.prefix
        table = settings.routing_table()
        self._all = {spec.broker_name: spec for spec in table}
        self._specs = {queue.name: table.queue(queue.name) for queue in consumer.queues or ()}
        self._longest_run_seconds = {
            spec.broker_name: settings.queues[spec.name].longest_run_seconds for spec in self._all.values()
        }
        self._prefetch = prefetch
        self._limit = limit
        self._limits: dict[str, int] = {}  # prefetches that are not the channel's, by tag
        self._extra: dict[str, str] = {}  # queues by the tags of more consumers of the same queue
        self._ended: dict[str, str] = {}  # queues by the tags of consumers that were cancelled here
        self.is_narrowed = False

    @property
    def connection(self) -> Any:
        """py-amqp's connection; None if it is lost."""
        return self._consumer.channel.connection

    @property
    def channel(self) -> Any:
        """The channel that delivers its messages."""
        return self._consumer.channel

    def __contains__(self, queue: str) -> bool:
        """Return whether a queue is one of these, consumed or paused; named as on the broker."""
        return bool(self._consumer.consuming_from(queue))

    def allow_long_runs(self) -> None:
        """Set a consumer time-out that allows for the longest run of each queue's tasks.

        Call this before consuming. Brokers before 4.3 have no such argument; their own time-out applies.
        """
        if server_version(self.connection) < QUORUM_TIMEOUT_VERSION:
            return
        for queue in self._consumer.queues:
            if self._specs[queue.name].type is QueueType.QUORUM:
                seconds = holding_seconds(self._longest_run_seconds[queue.name], self._prefetch)
                arguments = {TIMEOUT_ARGUMENT: int(seconds * 1000)}
                queue.consumer_arguments = dict(queue.consumer_arguments or {}, **arguments)

    def add(self, queue: Queue) -> None:
        """Declare another queue of the settings and consume from it.

        Raises:
            BrokerError: The broker refused the declaration.
            amqp.AMQPError, OSError: The connection was lost.
        """
        spec = self._all[queue.name]
        declare_topology(self.connection, work_topology([spec], self._prefix))
        self._specs[queue.name] = spec
        self._consumer.add_queue(queue)
        self.allow_long_runs()
        self._consumer.consume()
        self.keep()
        logger.info("also consuming from %s", queue.name)

    @property
    def paused(self) -> tuple[str, ...]:
        """The paused queues of this consumer, by their names on the broker."""
        return tuple(name for name in self._consumer._queues if name in self._consumer.paused)  # noqa: SLF001

    def pause(self, paused: AbstractSet[str]) -> None:
        """Stop consuming from paused queues, without waiting for the broker's answer; `renew` resumes the others.

        Args:
            paused: All paused queues, by their names on the broker.
        """
        before, self._consumer.paused = self._consumer.paused, paused
        for name in self.paused:
            if name not in before:
                logger.log(self._level, "paused: %s is not consumed until it is resumed", name)
            self._cancel_all(name)

    @property
    def is_single(self) -> bool:
        """True if there is one queue, and it is not paused."""
        return len(self._consumer.queues) == 1 and not self.paused

    @property
    def limit(self) -> int:
        """The number of messages that the consumers may hold; for a worker of one queue."""
        tags = [*self._live_extra(), *self._tags().values()]
        return sum(self._limits.get(tag, self._limit) for tag in tags)

    def widen(self, size: int) -> None:
        """Consume the queue once more, and hold so many more messages; for a worker of one queue.

        It waits for no answer, which a lost connection would never bring. A refusal closes the channel.

        Raises:
            amqp.AMQPError, OSError: The connection is lost.
        """
        for name, tag in tuple(self._tags().items()):
            self._extra[tag] = name
            del self._tags()[name]
        self._set_prefetch(size)
        self._consumer.consume_more()
        self._set_prefetch(self._limit)
        self._limits |= dict.fromkeys(self._tags().values(), size)
        self.keep()

    def end_extra(self) -> None:
        """Keep one consumer of each queue: another was added, or Celery's ``cancel_consumer`` removed this one."""
        self.is_narrowed = False
        self._cancel(tuple(self._extra))

    def narrow(self) -> None:
        """Stop consuming the queue, so that the messages that wait can be returned; call `refill` from then on."""
        for name in tuple(self._tags()):
            self._cancel_all(name)
        self.is_narrowed = True

    def refill(self, held: Iterable[Message], least: int) -> None:
        """Consume again with as much as the held messages leave free.

        Args:
            held: All unacknowledged messages of the worker.
            least: Do nothing while less is free, unless that is all that is missing.

        Raises:
            amqp.AMQPError, OSError: The connection is lost.
        """
        live = {*self._live_extra(), *self._tags().values()}
        orphans = sum(
            message.channel is self.channel and message.delivery_info.get("consumer_tag") not in live
            for message in held
            if not message.acknowledged
        )
        free = self._limit - self.limit - orphans
        if free >= max(1, least) or (free > 0 and not orphans):
            self.widen(free)
        self.is_narrowed = self.limit < self._limit

    def is_late(self, message: Message) -> bool:
        """Return whether a message was in transit when its consumer was cancelled."""
        return bool(self._ended) and message.delivery_info.get("consumer_tag") in self._ended

    def queue_of(self, tag: str) -> str | None:
        """Return the broker's name of a consumer's queue, None if its tag is unknown."""
        known = self._ended.get(tag) or self._extra.get(tag)
        return known or next((queue for queue, current in self._tags().items() if current == tag), None)

    def keep(self) -> None:
        """Keep the connection when the broker cancels a consumer, and cancel that consumer on the broker too.

        By default py-amqp raises, Celery reconnects, and the broker redelivers every running task. RabbitMQ 4.3
        cancels a consumer that held a message too long, but delivers to it again once that message is settled:
        py-amqp would reject all of these deliveries, and each would count as a failed one.
        """
        channel = self._consumer.channel

        def end(tag: str) -> None:
            channel.cancel_callbacks[tag] = end  # 4.3 cancels a consumer once for each message held too long
            channel.basic_cancel(tag, nowait=True)

        for tag in (*self._extra, *self._tags().values()):
            channel.cancel_callbacks[tag] = end

    def consumed(self) -> tuple[str, ...]:
        """Return the queues that are being consumed, by their names on the broker; also a narrowed one."""
        known = self._consumer.channel.callbacks
        if self.is_narrowed and not self._tags():
            return tuple(queue.name for queue in self._consumer.queues if queue.name not in self._consumer.paused)
        return tuple(queue for queue, tag in self._tags().items() if tag in known)

    def renew(self) -> bool:
        """Declare and consume again the queues whose consumers the broker has cancelled.

        Returns:
            False if the broker refused or did not answer; the channel may then be closed. True if all queues are
            consumed, or the connection is lost.
        """
        known = {*self.consumed(), *self.paused}
        missing = [queue.name for queue in self._consumer.queues if queue.name not in known]
        if not missing or self.connection is None:
            return True
        self._log_missing(missing)
        specs = [self._specs[name] for name in missing if name in self._specs]
        try:
            with bounded(self.connection, time.monotonic() + ANSWER_SECONDS):
                declare_topology(self.connection, work_topology(specs, self._prefix))
                for name in missing:
                    self._cancel_all(name)
                self._consumer.consume()
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("failed to consume again from %s: %s", ", ".join(missing), error_text(error))
            return False
        self.keep()
        return True

    def end(self) -> None:
        """Cancel all consumers, without waiting for the broker's answer."""
        for tag in (*self._extra, *self._tags().values()):
            self._consumer.channel.basic_cancel(tag, nowait=True)

    def _cancel_all(self, name: str) -> None:
        """Cancel the consumers of a queue, without waiting for the broker's answer; late messages are returned."""
        self.is_narrowed = False
        if current := self._tags().pop(name, None):
            self._extra[current] = name
        self._cancel([tag for tag, queue in self._extra.items() if queue == name])

    def _cancel(self, tags: Iterable[str]) -> None:
        for tag in tags:
            self._ended[tag] = self._extra.pop(tag)
            if tag in self._consumer.channel.callbacks:  # otherwise the broker has cancelled it
                self._consumer.channel.basic_cancel(tag, nowait=True)

    def _set_prefetch(self, count: int) -> None:
        """Set the prefetch of the channel's next consumers."""
        self._consumer.channel.send_method(spec.Basic.Qos, _QOS, (0, count, False))

    def _live_extra(self) -> list[str]:
        known = self._consumer.channel.callbacks
        return [tag for tag in self._extra if tag in known]

    def _log_missing(self, missing: list[str]) -> None:
        if cancelled := [name for name in missing if name in self._tags()]:
            logger.warning("the broker cancelled the consumer of %s; consuming again", ", ".join(cancelled))
        if resumed := [name for name in missing if name not in self._tags()]:
            logger.log(self._level, "resumed: %s", ", ".join(resumed))

    def _tags(self) -> dict[str, str]:
        """Return the task consumer's own dictionary of consumer tags by queue, which callers may change."""
        tags: dict[str, str] = self._consumer._active_tags  # noqa: SLF001 - kombu has no public access to them
        return tags


def holding_seconds(longest_run_seconds: float, prefetch: int) -> float:
    """Return how long a worker may hold a message: the runs before it in its slot, its own run, and a margin.

    The result is at least RabbitMQ's default of 30 minutes, which also applies with our defaults: 1 * 900 s + 60 s
    is less.

    Args:
        longest_run_seconds: Longest run of the queue's tasks.
        prefetch: Messages prefetched for each slot, including the running one.
    """
    return max(DEFAULT_CONSUMER_TIMEOUT_SECONDS, prefetch * longest_run_seconds + MARGIN_SECONDS)
