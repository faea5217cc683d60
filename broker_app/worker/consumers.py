"""Consumers: consumer time-outs, pausing, and recovery of consumers that the broker has cancelled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError

from broker_app.broker.declare import declare_topology
from broker_app.errors import BrokerError
from broker_app.queues import QueueType, work_topology
from broker_app.queues.rabbitmq import DEFAULT_CONSUMER_TIMEOUT_SECONDS, QUORUM_TIMEOUT_VERSION
from broker_app.wire.errors import error_text, server_version

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from kombu.entity import Queue
    from kombu.message import Message
    from kombu.messaging import Consumer

    from broker_app.settings import Settings

TIMEOUT_ARGUMENT = "x-consumer-timeout"
"""Consumer time-out in milliseconds, for quorum queues, since RabbitMQ 4.3
(rabbitmq.com/docs/quorum-queues#consumer-timeout). Older brokers ignore the argument."""

MARGIN_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Consumers:
    """A worker's consumers on one connection.

    Args:
        settings: The app's settings.
        consumer: Celery's task consumer.
        prefetch: Messages prefetched for each slot of the worker.
        is_helping: Whether the queues belong to other workers and are consumed only at times; pauses and
            resumptions are then logged at the debug level.
    """

    def __init__(self, settings: Settings, consumer: Consumer, prefetch: int, *, is_helping: bool = False) -> None:
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
        self._ended: dict[str, str] = {}  # queues by the tags of consumers that a pause has cancelled

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
            if tag := self._tags().pop(name, None):
                self._ended[tag] = name
                self._consumer.channel.basic_cancel(tag, nowait=True)

    def is_late(self, message: Message) -> bool:
        """Return whether a message was in transit when its queue was paused."""
        return bool(self._ended) and message.delivery_info.get("consumer_tag") in self._ended

    def queue_of(self, tag: str) -> str | None:
        """Return the broker's name of a consumer's queue, None if its tag is unknown."""
        return self._ended.get(tag) or next((queue for queue, known in self._tags().items() if known == tag), None)

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

        for tag in self._tags().values():
            channel.cancel_callbacks[tag] = end

    def consumed(self) -> tuple[str, ...]:
        """Return the queues that are being consumed, by their names on the broker."""
        known = self._consumer.channel.callbacks
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
            declare_topology(self.connection, work_topology(specs, self._prefix))
            for name in missing:
                self._tags().pop(name, None)
            self._consumer.consume()
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("failed to consume again from %s: %s", ", ".join(missing), error_text(error))
            return False
        self.keep()
        return True

    def end(self) -> None:
        """Cancel all consumers, without waiting for the broker's answer."""
        for tag in self._tags().values():
            self._consumer.channel.basic_cancel(tag, nowait=True)

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
