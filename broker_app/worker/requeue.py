"""Requeueing a task that asked for it with ``Reject(requeue=True)``: a new message at the end of its queue.

RabbitMQ marks a message that a consumer returned as redelivered, as it does when the consumer died. Workers count
such messages to find those that kill their worker, so a task that returns its message must not look like one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import Delay, Names
from broker_app.queues.headers import DELAY_HEADER, MAYBE_TWICE_HEADER, PERSISTENT, PUBLISHED_AT_HEADER
from broker_app.worker.dead_letters import body_of, carried

if TYPE_CHECKING:
    from kombu.message import Message

    from broker_app.queues import QueueSpec


def requeued(message: Message, spec: QueueSpec) -> OutgoingMessage:
    """Return a message as it came, to be published to its queue now.

    Args:
        message: As it was delivered.
        spec: The queue that it was taken from.
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
        delay=Delay((), 0.0),
        exchange=Names(spec.prefix).tasks,
        routing_key=spec.broker_name,
        body=body_of(message),
        properties=dict(properties, application_headers=headers, delivery_mode=PERSISTENT),
    )
