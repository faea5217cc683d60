"""Dead letters: a copy of a message that its queue gave up, with why, when and where in its headers.

RabbitMQ adds nothing to a message that a consumer rejects. So a worker publishes a copy with the headers below to
the exchange ``tasks.dead``, and acknowledges the original when the broker has confirmed the copy. Body and
properties are those of the original, its id too: replayed, it is the same task.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.compression import compress

from broker_app.publishing.message import OutgoingMessage
from broker_app.queues import Delay, Names
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
"""AMQP carries all headers of a message in one frame, of 131,072 bytes with RabbitMQ's default ``frame_max``."""

MAX_ID_CHARACTERS = 60
"""Of an id that stands in for a correlation id that is missing: AMQP has 255 bytes for it."""

_NOT_CARRIED = frozenset({"user_id", "expiration", "cluster_id", "application_headers"})
"""Properties of the original that the copy goes without: RabbitMQ refuses a ``user_id`` other than the worker's
own, and with an expiration it would not stay in the dead letters."""

_DROPPED_HEADERS = BROKER_HEADERS | {"CC", "BCC"}
"""With CC or BCC RabbitMQ would route the copy to more queues (rabbitmq.com/docs/sender-selected)."""


def dead_letter(message: Message, spec: QueueSpec, death: DeadLetterCause, node: str) -> OutgoingMessage:
    """Return the copy of a message that goes to the dead letters of its queue.

    Args:
        message: As it was delivered.
        spec: The queue that it was taken from.
        death: What is known of its end.
        node: The worker's name.
    """
    headers, properties = carried(message)
    headers |= dead_headers(death, spec, node)
    if not isinstance(properties.get("correlation_id"), str):  # a copy that is returned is known by it
        properties["correlation_id"] = _identity(headers) or str(uuid4())
    task, identity = str(headers.get("task", "unknown")), _identity(headers) or properties["correlation_id"]
    return OutgoingMessage(
        task=task,
        task_id=identity,
        spec=spec,
        delay=Delay((), 0.0),
        exchange=Names(spec.prefix).dead,
        routing_key=spec.broker_name,
        body=body_of(message),
        properties=dict(properties, application_headers=headers, delivery_mode=PERSISTENT),
    )


def dead_headers(death: DeadLetterCause, spec: QueueSpec, node: str) -> dict[str, Any]:
    """Return the headers that say why, when and where."""
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
    """Return the headers and the properties that a message keeps when it is published again."""
    headers = {name: value for name, value in (message.headers or {}).items() if not _is_dropped(name)}
    properties = {name: value for name, value in (message.properties or {}).items() if name not in _NOT_CARRIED}
    return headers, properties


def _is_dropped(name: object) -> bool:
    return name in _DROPPED_HEADERS or str(name).startswith(DEAD_PREFIX)  # not UTF-8, a name is bytes


def _identity(headers: Mapping[Any, Any]) -> str:
    identity = headers.get("id")
    return str(identity)[:MAX_ID_CHARACTERS] if isinstance(identity, str | int) else ""


def _text(words: str) -> str:
    """Return what UTF-8 can carry: a lone surrogate, as in a file name of another system, it cannot."""
    return words.encode("utf-8", "backslashreplace").decode("utf-8")


def body_of(message: Message) -> bytes:
    """Return the body as it came: py-amqp has decoded it to text, kombu has decompressed it, where they could."""
    body = message.body
    if not body:  # py-amqp has a text for it, whatever the encoding
        return b""
    body = body.encode(message.content_encoding or "utf-8") if isinstance(body, str) else bytes(body)
    compression = (message.headers or {}).get("compression")
    if not compression or message.errors:
        return body
    packed: bytes = compress(body, compression)[0]
    return packed
