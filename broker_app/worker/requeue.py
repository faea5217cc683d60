"""Requeue: a task that raises ``Reject(requeue=True)`` is republished to the end of its queue.

RabbitMQ marks a message that a consumer requeues as redelivered, as if the consumer had died. Workers count
redeliveries to detect poison tasks, and a task that requeues itself must not be mistaken for one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import NO_DELAY, Names
from broker_app.queues.headers import DELAY_HEADER, MAYBE_TWICE_HEADER, PERSISTENT, PUBLISHED_AT_HEADER
from broker_app.worker.dead_letters import body_of, carried

if TYPE_CHECKING:
    from kombu.message import Message

    from broker_app.queues import QueueSpec


def requeued(message: Message, spec: QueueSpec) -> OutgoingMessage:
    """Return a copy of a message, to be published to its queue without a delay.

    Args:
        message: The message as it was delivered.
        spec: The queue that delivered it.
    """
    headers, properties = carried(message)
    headers.pop(MAYBE_TWICE_HEADER, None)
    headers |= {PUBLISHED_AT_HEADER: time.time(), DELAY_HEADER: 0.0}
    identity = str(headers.get("id") or properties.get("correlation_id") or uuid4())
    properties.setdefault("correlation_id", identity)
    return OutgoingMessage(
        task=str(headers.get("task", "unknown")),
        task_id=identity,
        spec=spec,
        delay=NO_DELAY,
        exchange=Names(spec.prefix).tasks,
        routing_key=spec.broker_name,
        body=body_of(message),
        properties=dict(properties, application_headers=headers, delivery_mode=PERSISTENT),
    )
