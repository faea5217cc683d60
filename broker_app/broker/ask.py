"""Reply-code probes: send one request to the broker and return its reply code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import amqp
from amqp import exceptions as amqp_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[amqp.Channel], Any]

ACCEPTED, REFUSED, NOT_FOUND = 0, 403, 404
"""AMQP 0-9-1 reply codes, plus 0 for a request that succeeded."""

ANSWER_SECONDS = 5.0
"""Time to wait for one answer."""


def answer(connection: amqp.Connection, probe: Probe) -> tuple[int, str]:
    """Return the broker's reply code and reply text for a request.

    Each request gets its own channel, because a refusal closes the channel.

    Raises:
        TimeoutError: No answer within `ANSWER_SECONDS`; the connection is dropped.
        amqp.AMQPError, OSError: The connection was lost.
    """
    try:
        with connection.transport.having_timeout(ANSWER_SECONDS):
            channel = connection.channel()
            try:
                probe(channel)
            except amqp_errors.ChannelError as error:
                return error.reply_code, error.reply_text
            channel.close()
    except TimeoutError:
        connection.collect()  # a clean close would wait for an answer too
        raise
    return ACCEPTED, ""
