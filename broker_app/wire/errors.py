"""Error texts and the server version, as reported by RabbitMQ, py-amqp and result stores."""

from __future__ import annotations

import amqp
from amqp import exceptions as amqp_errors


def error_text(error: BaseException) -> str:
    """Return the broker's reply, or the error's own text, or its class name if it has no text."""
    if isinstance(error, amqp_errors.AMQPError):
        return f"{error.reply_code or ''} {error.reply_text}".strip()
    return str(error) or type(error).__name__


def cause_text(error: BaseException) -> str:
    """Return the text of the first error in a chain, which says more than "failed to get meta" does."""
    seen = {id(error)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        error = cause
        seen.add(id(cause))
    return " ".join(error_text(error).split())


def server_version(connection: amqp.Connection) -> tuple[int, ...]:
    """Return the broker's version as numbers, e.g. (4, 3, 6), without a pre-release suffix.

    Args:
        connection: An open connection; pika's has the same ``server_properties``.
    """
    words = str(connection.server_properties.get("version", "0")).split("-")[0].split(".")
    return tuple(int(word) for word in words if word.isdigit())
