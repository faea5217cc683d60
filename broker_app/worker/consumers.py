"""A worker's consumers at the broker: how long they may hold a message, and what if one is cancelled or paused."""

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
"""Milliseconds, of one consumer on a quorum queue, from 4.3 on (rabbitmq.com/docs/quorum-queues#consumer-timeout).
An older broker takes the argument and ignores it."""

MARGIN_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Consumers:
    """What a worker consumes on one connection.

    Args:
        settings: The app's.
        consumer: Celery's task consumer.
        prefetch: Messages reserved for each slot of the worker.
        is_helping: Whether the queues are other workers': it consumes them now and then, and says nothing of it.
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
        self._ended: dict[str, str] = {}  # queues by the tags of the consumers that a pause has ended

    @property
    def connection(self) -> Any:
        """py-amqp's connection; None if it is lost."""
        return self._consumer.channel.connection

    @property
    def channel(self) -> Any:
        """Where its messages come by."""
        return self._consumer.channel

    def allow_long_runs(self) -> None:
        """Ask the broker to leave messages with us for as long as their queue's tasks may take.

        To be called before consuming. Where the broker knows no such wish, its own time-out counts.
        """
        if server_version(self.connection) < QUORUM_TIMEOUT_VERSION:
            return
        for queue in self._consumer.queues:
            if self._specs[queue.name].type is QueueType.QUORUM:
                seconds = holding_seconds(self._longest_run_seconds[queue.name], self._prefetch)
                arguments = {TIMEOUT_ARGUMENT: int(seconds * 1000)}
                queue.consumer_arguments = dict(queue.consumer_arguments or {}, **arguments)

    def add(self, queue: Queue) -> None:
        """Declare one more queue of the settings, and consume from it.

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
        logger.info("consuming from %s as well", queue.name)

    @property
    def paused(self) -> tuple[str, ...]:
        """The queues, as on the broker, that are not consumed on purpose."""
        return tuple(name for name in self._consumer._queues if name in self._consumer.paused)  # noqa: SLF001

    def pause(self, paused: AbstractSet[str]) -> None:
        """Consume no more from some queues, without waiting for the broker's answer; `renew` consumes from others.

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
        """Return whether a message was on its way when its queue was paused."""
        return message.delivery_info.get("consumer_tag") in self._ended

    def queue_of(self, message: Message) -> str | None:
        """Return the broker's name of the queue that a message was taken from."""
        tag = message.delivery_info.get("consumer_tag", "")
        return self._ended.get(tag) or next((queue for queue, known in self._tags().items() if known == tag), None)

    def keep(self) -> None:
        """Outlive a cancelled consumer: py-amqp would raise, Celery connect anew, and all that runs come again."""
        callbacks = self._consumer.channel.cancel_callbacks

        def stay(tag: str) -> None:
            callbacks[tag] = stay  # 4.3 cancels a consumer once for each message that it held too long

        for tag in self._tags().values():
            callbacks[tag] = stay

    def consumed(self) -> tuple[str, ...]:
        """Return the queues, as on the broker, that are consumed."""
        known = self._consumer.channel.callbacks
        return tuple(queue for queue, tag in self._tags().items() if tag in known)

    def renew(self) -> bool:
        """Declare and consume again what the broker has cancelled; return whether all is consumed.

        Returns:
            True also if the connection is lost; False if the broker refused or did not answer: its channel may
            then be closed.
        """
        known = {*self.consumed(), *self.paused}
        gone = [queue.name for queue in self._consumer.queues if queue.name not in known]
        if not gone or self.connection is None:
            return True
        self._tell(gone)
        specs = [self._specs[name] for name in gone if name in self._specs]
        try:
            declare_topology(self.connection, work_topology(specs, self._prefix))
            for name in gone:
                self._tags().pop(name, None)
            self._consumer.consume()
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("could not be consumed again: %s", error_text(error))
            return False
        self.keep()
        return True

    def end(self) -> None:
        """Tell the broker to send no more, and do not wait for its answer."""
        for tag in self._tags().values():
            self._consumer.channel.basic_cancel(tag, nowait=True)

    def _tell(self, gone: list[str]) -> None:
        if cancelled := [name for name in gone if name in self._tags()]:
            logger.warning("no longer consumed, and consumed again: %s", ", ".join(cancelled))
        if resumed := [name for name in gone if name not in self._tags()]:
            logger.log(self._level, "resumed: %s", ", ".join(resumed))

    def _tags(self) -> dict[str, str]:
        """Return the consumers' tags by queue: the task consumer's own, to be changed."""
        tags: dict[str, str] = self._consumer._active_tags  # noqa: SLF001 - kombu shows them nowhere else
        return tags


def holding_seconds(longest_run_seconds: float, prefetch: int) -> float:
    """Return how long a worker may hold a message: those before it in its slot, its own run, and a margin.

    At least RabbitMQ's default of 30 minutes: with the defaults that, as 1 * 900 s + 60 s are less.

    Args:
        longest_run_seconds: Of the queue's tasks.
        prefetch: Messages reserved for each slot, the running one included.
    """
    return max(DEFAULT_CONSUMER_TIMEOUT_SECONDS, prefetch * longest_run_seconds + MARGIN_SECONDS)
