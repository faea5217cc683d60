"""Header names on the broker. Old messages carry them: a name never changes."""

from __future__ import annotations

PUBLISHED_AT_HEADER = "broker_app_published_at"
"""Seconds since the epoch (float), by the producer's clock, when the task was handed to the broker."""

DELAY_HEADER = "broker_app_delay_seconds"
"""The delay that was asked for; what a task waited in its queue is now - published_at - delay."""

MAYBE_TWICE_HEADER = "broker_app_maybe_twice"
"""True on a message that was sent again because the connection was lost before the first was confirmed."""

BROKER_HEADERS = frozenset(
    {"x-death", "x-delivery-count", "x-acquired-count"}
    | {f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")}
)
"""What RabbitMQ notes in a message on its way. One that is sent again must not carry it along: 3.10 takes a lane
of the last way that comes again for a cycle, and drops the message (rabbitmq.com/docs/dlx, on cycles)."""

PERSISTENT = 2
"""AMQP basic property delivery-mode: written to disk."""
