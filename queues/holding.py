"""Where a queue's messages stand while the queue is made anew with other arguments: values only."""

from __future__ import annotations

from dataclasses import dataclass

from kombu.entity import Exchange, Queue

from broker_app.queues.names import Names
from broker_app.queues.rabbitmq import UNLIMITED_DELIVERIES
from broker_app.queues.spec import QueueType

_HEAD = "tasks.moving."
"""No queue of the settings begins so. With the longest name of one and ``.dead`` it fits AMQP's 255 bytes."""


@dataclass(frozen=True, slots=True)
class HoldingQueue:
    """The holding queue of a queue that is being moved.

    Attributes:
        target: The queue's name on the broker.
        prefix: Of the names on the broker.
    """

    target: str
    prefix: str = ""

    @property
    def name(self) -> str:
        """The holding queue, and the exchange that leads to it alone."""
        return f"{self.prefix}{_HEAD}{self.target.removeprefix(self.prefix)}"

    @property
    def exchange(self) -> Exchange:
        """A fanout: what it hands on keeps its routing key."""
        return Exchange(self.name, type="fanout")

    def queue(self, queue_type: QueueType) -> Queue:
        """Return the queue: in the order of arrival, whatever the priorities, and with no limit of looks."""
        limit = {"x-delivery-limit": UNLIMITED_DELIVERIES} if queue_type is QueueType.QUORUM else {}
        arguments = {"x-queue-type": str(queue_type), "x-overflow": "reject-publish", **limit}
        return Queue(self.name, queue_arguments=arguments)


def lock_name(prefix: str) -> str:
    """Return the exclusive queue that is there while a queue is being moved."""
    return f"{Names(prefix).tasks}.migrate"


def held_target(name: str, prefix: str) -> str | None:
    """Return the queue that a holding queue is for, None if it is none."""
    head = prefix + _HEAD
    return prefix + name.removeprefix(head) if name.startswith(head) else None
