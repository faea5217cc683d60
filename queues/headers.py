"""Message headers. Messages already on the broker carry them, so a name never changes."""

from __future__ import annotations

PUBLISHED_AT_HEADER = "broker_app_published_at"
"""When the task was published: seconds since the epoch (float), by the producer's clock."""

DELAY_HEADER = "broker_app_delay_seconds"
"""The requested delay in seconds; the time spent waiting in the queue is now - published_at - delay."""

MAYBE_TWICE_HEADER = "broker_app_maybe_twice"
"""True on a message that was published again because the connection was lost before the confirm arrived."""

COUNT_HEADERS = frozenset({"x-delivery-count", "x-acquired-count"})
"""Number of returned deliveries, set by a quorum queue on a redelivered message; the second since RabbitMQ 4.3."""

BROKER_HEADERS = COUNT_HEADERS | frozenset(
    {"x-death"}
    | {f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")}
)
"""Headers that RabbitMQ adds in transit. Strip them before publishing a message again: otherwise 3.10 mistakes a
lane it passed before for a dead-letter cycle and drops the message (rabbitmq.com/docs/dlx, on cycles)."""

PERSISTENT = 2
"""AMQP basic property delivery-mode: written to disk."""
