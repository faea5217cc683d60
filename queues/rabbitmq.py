"""Facts that depend on RabbitMQ's version or are its own, each with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.queues.spec import QueueSpec, QueueType

if TYPE_CHECKING:
    from collections.abc import Iterable

OLDEST_VERSION = (3, 10)
"""The oldest RabbitMQ that the tests run against."""

DEFAULT_CONSUMER_TIMEOUT_SECONDS = 1_800.0
"""rabbitmq.com/docs/consumers#acknowledgement-timeout: 30 minutes. No API tells the value that is in force."""

QUORUM_TIMEOUT_VERSION = (4, 3)
"""From here on only quorum queues have a consumer time-out (measured; 3.10.8 has it for classic ones too)."""


PRIORITY_QUORUM_VERSION = (4, 3)
"""Quorum queues keep strict priorities from RabbitMQ 4.3 on; before, two classes (4.0) or none (3.10)."""

STREAM_CONSUMER = {"x-stream-offset": "first"}
"""Arguments of who reads a stream: from its beginning."""

UNLIMITED_DELIVERIES = 1_000_000_000
"""How often RabbitMQ may take a message back. A quorum queue counts each return, and from 4.0 on drops or
dead-letters a message after 20 (rabbitmq.com/docs/quorum-queues#poison-message-handling): also a dead letter that
was only looked at, and a task that stood unstarted in a worker whose connection was lost. Workers judge poison.
A policy cannot raise it. Not -1, no limit from 4.0 on: 3.10 takes it and drops the message at its first return."""


def missing_features(specs: Iterable[QueueSpec], broker_version: tuple[int, ...]) -> list[str]:
    """Return one sentence for each thing that a spec asks for and this broker cannot do.

    Args:
        specs: The declared queues.
        broker_version: As numbers, e.g. ``(4, 3, 6)``.
    """
    shown = ".".join(map(str, broker_version))
    return [
        f"queues.{spec.name}: priorities on a quorum queue need RabbitMQ 4.3, the broker is {shown}; "
        f'set type = "classic" or priorities = false'
        for spec in specs
        if spec.has_priorities and spec.type is QueueType.QUORUM and broker_version[:2] < PRIORITY_QUORUM_VERSION
    ]
