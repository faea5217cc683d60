"""Holding queues: store a queue's messages while the queue is recreated with other arguments. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from kombu.entity import Exchange, Queue

from broker_app.queues.names import Names
from broker_app.queues.rabbitmq import UNLIMITED_DELIVERIES
from broker_app.queues.spec import QueueType

_HEAD = "tasks.moving."
"""No declared queue starts with this. With the longest queue name and ``.dead`` it fits AMQP's 255 bytes."""


@dataclass(frozen=True, slots=True)
class HoldingQueue:
    """The holding queue of a queue that is being migrated.

    Attributes:
        target: The broker name of the migrated queue.
        prefix: The prefix of all names on the broker.
    """

    target: str
    prefix: str = ""

    @property
    def name(self) -> str:
        """Name of the holding queue and of the exchange bound to it alone."""
        return f"{self.prefix}{_HEAD}{self.target.removeprefix(self.prefix)}"

    @property
    def exchange(self) -> Exchange:
        """The exchange: a fanout, so messages keep their routing key."""
        return Exchange(self.name, type="fanout")

    def queue(self, queue_type: QueueType) -> Queue:
        """Return the queue. It keeps the order of arrival regardless of priority, and has no delivery limit."""
        limit = {"x-delivery-limit": UNLIMITED_DELIVERIES} if queue_type is QueueType.QUORUM else {}
        arguments = {"x-queue-type": str(queue_type), "x-overflow": "reject-publish", **limit}
        return Queue(self.name, queue_arguments=arguments)


def lock_name(prefix: str) -> str:
    """Return the name of the exclusive queue that serves as a lock during a migration."""
    return f"{Names(prefix).tasks}.migrate"


def held_target(name: str, prefix: str) -> str | None:
    """Return the queue that ``name`` holds messages for; None if ``name`` is not a holding queue."""
    head = prefix + _HEAD
    return prefix + name.removeprefix(head) if name.startswith(head) else None
