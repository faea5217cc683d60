"""Dead letters: copies of messages that were given up, with the reason, time and place in their headers.

RabbitMQ does not record why a consumer rejects a message. So a worker publishes a copy with the headers below to
the exchange ``tasks.dead``, and acknowledges the original once the broker has confirmed the copy. The copy keeps
the original's body, properties and id: when replayed, it is the same task.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.compression import compress

from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import NO_DELAY, Names
from broker_app.queues.dead_letters import (
    AT_HEADER,
    DEAD_PREFIX,
    EXCEPTION_HEADER,
    NODE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    STARTS_HEADER,
    TRACEBACK_HEADER,
    DeadLetterCause,
)
from broker_app.queues.headers import BROKER_HEADERS, PERSISTENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu.message import Message

    from broker_app.queues import QueueSpec


MAX_EXCEPTION_CHARACTERS = 1_000
MAX_TRACEBACK_CHARACTERS = 8_000
"""AMQP sends all headers of a message in one frame: 131,072 bytes with RabbitMQ's default ``frame_max``."""

MAX_ID_CHARACTERS = 60
"""Length of a task id that replaces a missing correlation id, which AMQP limits to 255 bytes."""

_NOT_CARRIED = frozenset({"user_id", "expiration", "cluster_id", "application_headers"})
"""Properties that are not copied: RabbitMQ refuses a ``user_id`` other than the worker's own, and an expiration
would remove the copy from the dead letters."""

_DROPPED_HEADERS = BROKER_HEADERS | {"CC", "BCC"}
"""With CC or BCC, RabbitMQ would route the copy to other queues too (rabbitmq.com/docs/sender-selected)."""


def dead_letter(message: Message, spec: QueueSpec, death: DeadLetterCause, node: str) -> OutgoingMessage:
    """Return the copy of a message for the dead letters of its queue.

    Args:
        message: The message as it was delivered.
        spec: The queue that delivered it.
        death: The reason and its details.
        node: The worker's name.
    """
    headers, properties = carried(message)
    headers |= dead_headers(death, spec, node)
    if not isinstance(properties.get("correlation_id"), str):  # it identifies a copy that the broker returns
        properties["correlation_id"] = _identity(headers) or str(uuid4())
    task, identity = str(headers.get("task", "unknown")), _identity(headers) or properties["correlation_id"]
    return OutgoingMessage(
        task=task,
        task_id=identity,
        spec=spec,
        delay=NO_DELAY,
        exchange=Names(spec.prefix).dead,
        routing_key=spec.broker_name,
        body=body_of(message),
        properties=dict(properties, application_headers=headers, delivery_mode=PERSISTENT),
    )


def dead_headers(death: DeadLetterCause, spec: QueueSpec, node: str) -> dict[str, Any]:
    """Return the headers with the reason, time and place."""
    headers: dict[str, Any] = {
        REASON_HEADER: str(death.reason),
        AT_HEADER: time.time(),
        QUEUE_HEADER: spec.broker_name,
        NODE_HEADER: node,
        EXCEPTION_HEADER: _text(death.exception[:MAX_EXCEPTION_CHARACTERS]),
    }
    if death.traceback:
        headers[TRACEBACK_HEADER] = _text(death.traceback[-MAX_TRACEBACK_CHARACTERS:])
    if death.starts is not None:
        headers[STARTS_HEADER] = death.starts
    return headers


def carried(message: Message) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the headers and properties that a message keeps when it is republished."""
    headers = {name: value for name, value in (message.headers or {}).items() if not _is_dropped(name)}
    properties = {name: value for name, value in (message.properties or {}).items() if name not in _NOT_CARRIED}
    return headers, properties


def _is_dropped(name: object) -> bool:
    return name in _DROPPED_HEADERS or str(name).startswith(DEAD_PREFIX)  # a name that is not UTF-8 is bytes


def _identity(headers: Mapping[Any, Any]) -> str:
    identity = headers.get("id")
    return str(identity)[:MAX_ID_CHARACTERS] if isinstance(identity, str | int) else ""


def _text(words: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode; they occur in file names that are not UTF-8."""
    return words.encode("utf-8", "backslashreplace").decode("utf-8")


def body_of(message: Message) -> bytes:
    """Return the body's original bytes: undoes the decoding by py-amqp and the decompression by kombu."""
    body = message.body
    if not body:  # py-amqp returns an empty str, whatever the encoding
        return b""
    body = body.encode(message.content_encoding or "utf-8") if isinstance(body, str) else bytes(body)
    compression = (message.headers or {}).get("compression")
    if not compression or message.errors:
        return body
    packed: bytes = compress(body, compression)[0]
    return packed
