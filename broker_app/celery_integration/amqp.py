"""AMQP: Celery's queues, publisher and consumers, with strict queue names, publisher confirms and declarations."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.app import amqp as celery_amqp
from kombu.messaging import Consumer as KombuConsumer

from broker_app.broker import control_streams
from broker_app.broker.declare import declare_topology, queue_exists
from broker_app.errors import ArgumentsDiffer, BrokerRefused, UnknownQueue
from broker_app.publishing.publisher import Publisher
from broker_app.queues import work_topology
from broker_app.wire.connection import BrokerConnection, pooled, refuse_other_transports
from broker_app.wire.url_file import UrlFile

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    import amqp
    from kombu.entity import Queue
    from kombu.messaging import Producer

    from broker_app.broker.control_streams import Stream
    from broker_app.queues import QueueSpec
    from broker_app.settings import Settings

logger = logging.getLogger(__name__)


class Queues(celery_amqp.Queues):
    """Celery's queues by name; the error for an unknown name suggests the nearest known one."""

    def __missing__(self, name: str) -> Queue:
        raise UnknownQueue(name, [queue.alias or queue.name for queue in self.values()])


class PausableConsumer(KombuConsumer):
    """kombu's consumer, which skips paused queues.

    Attributes:
        paused: Paused queues, by their names on the broker.
    """

    paused: Container[str] = frozenset()

    def _consume_queues(self, no_ack_by_queue: Mapping[str, Any]) -> None:
        wanted = {name: no_ack for name, no_ack in no_ack_by_queue.items() if name not in self.paused}
        super()._consume_queues(wanted)  # type: ignore[no-untyped-call]

    def consume_more(self) -> None:
        """Consume from the queues without a consumer, as `consume`, but do not wait for the broker's answer."""
        for queue in self.queues or ():
            if queue.name not in self.paused:
                self._basic_consume(queue, no_ack=self.no_ack, nowait=True)  # type: ignore[no-untyped-call]


class BrokerAMQP(celery_amqp.AMQP):
    """Celery's AMQP interface, for publishing and consuming."""

    queues_cls = Queues
    Consumer = PausableConsumer

    _streams: tuple[Stream, ...] = ()

    def follow(self, *streams: Stream) -> None:
        """Make the worker in this process follow streams; it reads each to its end before its first task."""
        self._streams = streams

    @cached_property
    def publisher(self) -> Publisher:
        """The publisher of the app's tasks."""
        settings: Settings = self.app.settings
        if settings.publish.spool:
            from broker_app.publishing.spool import SpoolingPublisher  # noqa: PLC0415 - loads a database only if used

            return SpoolingPublisher(self.app, settings)
        return Publisher(self.app, settings.routing_table(), settings.prefix, settings.publish.timeout_seconds)

    @contextmanager
    def pooled_producer(self, deadline: float) -> Iterator[Producer]:
        """Yield a producer on a pooled connection; see `broker_app.wire.connection.pooled`."""
        with pooled(self.app.pool, deadline) as connection:
            yield self.Producer(connection, auto_declare=False)

    def _create_task_sender(self) -> Callable[..., None]:
        return self.publisher.send

    def Connection(self, hostname: Any = None, *args: Any, **options: Any) -> BrokerConnection:  # noqa: N802 - Celery's name
        """Return a connection that is not open yet.

        Raises:
            SettingsError: The transport is not AMQP. Not raised with ``task_always_eager``, which publishes
                nothing.
        """
        if not self.app.conf.task_always_eager:
            refuse_other_transports(hostname, options.get("transport"))
        if self._url_file is not None and hostname == self.app.settings.broker_url.get_secret_value():
            hostname, options["url_file"] = self._url_file.read(), self._url_file
        return BrokerConnection(hostname, *args, **options)

    @cached_property
    def _url_file(self) -> UrlFile | None:
        settings: Settings = self.app.settings
        if settings.broker_url_file is None:
            return None
        return UrlFile(settings.broker_url_file, settings.broker_url.get_secret_value())

    def TaskConsumer(self, channel: Any, queues: list[Queue] | None = None, **options: Any) -> KombuConsumer:  # noqa: N802
        """Return the consumer of a worker, after declaring its queues and reading the streams that it follows.

        Celery's worker calls this once per connection, before it receives the first task. So do `celery purge` and
        `celery list bindings`, which consume nothing and pass no ``on_decode_error``.

        Raises:
            BrokerError: The broker refused a declaration, and a queue does not exist.
        """
        wanted = queues or list(self.queues.consume_from.values())
        settings: Settings = self.app.settings
        table = settings.routing_table()
        specs = [table.queue(queue.name) for queue in wanted]
        connection = getattr(channel, "connection", channel)
        _declare(connection, specs, settings.prefix)
        if "on_decode_error" in options:
            control_streams.follow(connection, self._streams)
        consumer: KombuConsumer = super().TaskConsumer(channel, queues=wanted, **options)
        return consumer


def _declare(connection: amqp.Connection, specs: list[QueueSpec], prefix: str) -> None:
    """Declare the topology of queues; if the broker refuses, use the existing queues with a warning.

    So workers without the permission to declare can run, and so can workers with older or newer settings during a
    `broker-app topology migrate`.
    """
    try:
        declare_topology(connection, work_topology(specs, prefix))
    except (ArgumentsDiffer, BrokerRefused) as error:
        if not all(queue_exists(connection, spec.broker_name) for spec in specs):
            raise
        logger.warning("the queues are used as they are: %s", error)
