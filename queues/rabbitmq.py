"""RabbitMQ specifics: version-dependent features and constants, each with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.queues.spec import QueueSpec, QueueType

if TYPE_CHECKING:
    from collections.abc import Iterable

OLDEST_VERSION = (3, 10)
"""The oldest RabbitMQ that the tests run against."""

DEFAULT_CONSUMER_TIMEOUT_SECONDS = 1_800.0
"""rabbitmq.com/docs/consumers#acknowledgement-timeout: 30 minutes. No API returns the effective value."""

QUORUM_TIMEOUT_VERSION = (4, 3)
"""Since this version only quorum queues have a consumer timeout (measured; in 3.10.8 classic queues do too)."""


PRIORITY_QUORUM_VERSION = (4, 3)
"""Quorum queues have strict priorities since RabbitMQ 4.3; 4.0 has two priority classes, 3.10 none."""

STREAM_CONSUMER = {"x-stream-offset": "first"}
"""Consumer arguments for reading a stream from its beginning."""

UNLIMITED_DELIVERIES = 1_000_000_000
"""Delivery limit that is never reached. A quorum queue counts every requeue, and since 4.0 drops or dead-letters a
message after 20 (rabbitmq.com/docs/quorum-queues#poison-message-handling). That would include a dead letter that
was only inspected, and a task that was prefetched but not started when its worker lost the connection; so workers
detect poison messages themselves. A policy cannot raise the limit. Not -1 (unlimited since 4.0): 3.10 accepts it
and drops the message at its first requeue."""


def missing_features(specs: Iterable[QueueSpec], broker_version: tuple[int, ...]) -> list[str]:
    """Return one sentence for each feature that a spec needs and the broker lacks.

    Args:
        specs: The declared queues.
        broker_version: The version as integers, e.g. ``(4, 3, 6)``.
    """
    shown = ".".join(map(str, broker_version))
    return [
        f"queues.{spec.name}: priorities on a quorum queue need RabbitMQ 4.3, the broker is {shown}; "
        f'set type = "classic" or priorities = false'
        for spec in specs
        if spec.has_priorities and spec.type is QueueType.QUORUM and broker_version[:2] < PRIORITY_QUORUM_VERSION
    ]
