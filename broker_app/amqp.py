"""Celery's AMQP room with our queues: unknown ones refused, publishing confirmed, consumed ones declared."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from celery.app import amqp as celery_amqp

from broker_app import cancellations, topology
from broker_app.errors import BrokerRefused, UnknownQueue
from broker_app.publisher import Publisher
from queues import work_topology

if TYPE_CHECKING:
    from collections.abc import Callable

    import amqp
    from kombu.entity import Queue
    from kombu.messaging import Consumer

    from broker_app.settings import Settings
    from queues import QueueSpec

logger = logging.getLogger(__name__)


class Queues(celery_amqp.Queues):
    """Celery's queues by name; an unknown name is refused with the nearest known one."""

    def __missing__(self, name: str) -> Queue:
        raise UnknownQueue(name, [queue.alias or queue.name for queue in self.values()])


class BrokerAMQP(celery_amqp.AMQP):
    """What Celery asks when it publishes or consumes."""

    queues_cls = Queues

    def _create_task_sender(self) -> Callable[..., None]:
        settings: Settings = self.app.settings
        table = settings.routing_table()
        return Publisher(self.app, table, settings.prefix, settings.publish.timeout_seconds).send

    def TaskConsumer(self, channel: Any, queues: list[Queue] | None = None, **options: Any) -> Consumer:  # noqa: N802
        """Return the consumer of a worker, after declaring its queues and reading what was cancelled.

        Celery's worker calls it once a connection, before the first task is taken, and so do `celery purge` and
        `celery list bindings`, which consume nothing: without ``on_decode_error``.

        Raises:
            BrokerError: The broker refused a declaration, and a queue is not there.
        """
        wanted = queues or list(self.queues.consume_from.values())
        settings: Settings = self.app.settings
        table = settings.routing_table()
        specs = [table.queue(queue.name) for queue in wanted]
        connection = getattr(channel, "connection", channel)
        _declare(connection, specs, settings.prefix)
        if "on_decode_error" in options:
            cancellations.follow(self.app, connection)
        consumer: Consumer = super().TaskConsumer(channel, queues=wanted, **options)
        return consumer


def _declare(connection: amqp.Connection, specs: list[QueueSpec], prefix: str) -> None:
    """Declare what the queues need; a user who may not declare gets by with queues that are there."""
    try:
        topology.declare(connection, work_topology(specs, prefix))
    except BrokerRefused as error:
        if not all(topology.has_queue(connection, spec.broker_name) for spec in specs):
            raise
        logger.warning("the queues are used as they are: %s", error)
