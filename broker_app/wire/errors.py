"""Error texts and the server version, as reported by RabbitMQ and py-amqp."""

from __future__ import annotations

import amqp
from amqp import exceptions as amqp_errors


def error_text(error: BaseException) -> str:
    """Return the broker's reply, or the error's own text, or its class name if it has no text."""
    if isinstance(error, amqp_errors.AMQPError):
        return f"{error.reply_code or ''} {error.reply_text}".strip()
    return str(error) or type(error).__name__


def server_version(connection: amqp.Connection) -> tuple[int, ...]:
    """Return the broker's version as numbers, e.g. (4, 3, 6), without a pre-release suffix.

    Args:
        connection: An open connection; pika's has the same ``server_properties``.
    """
    words = str(connection.server_properties.get("version", "0")).split("-")[0].split(".")
    return tuple(int(word) for word in words if word.isdigit())
