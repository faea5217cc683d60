"""Celery's AMQP room with our queues: unknown ones refused, publishing confirmed, consumed ones declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app import amqp as celery_amqp

from broker_app import cancellations, topology
from broker_app.errors import UnknownQueue
from broker_app.publisher import Publisher
from queues import work_topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.entity import Queue
    from kombu.messaging import Consumer

    from broker_app.settings import Settings


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

        Celery calls it once a connection, before the first task is taken.

        Raises:
            BrokerError: The broker refused a declaration.
        """
        wanted = queues or list(self.queues.consume_from.values())
        settings: Settings = self.app.settings
        table = settings.routing_table()
        specs = [table.queue(queue.name) for queue in wanted]
        connection = getattr(channel, "connection", channel)
        topology.declare(connection, work_topology(specs, settings.prefix))
        cancellations.follow(self.app, channel)
        consumer: Consumer = super().TaskConsumer(channel, queues=wanted, **options)
        return consumer
