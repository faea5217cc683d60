"""Ask the broker a question whose answer is a reply code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import amqp
from amqp import exceptions as amqp_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    Probe = Callable[[amqp.Channel], Any]

ACCEPTED, REFUSED, NOT_FOUND = 0, 403, 404
"""AMQP 0-9-1 reply codes, and 0 for a request that was carried out."""

ANSWER_SECONDS = 5.0
"""How long one answer is waited for."""


def answer(connection: amqp.Connection, probe: Probe) -> tuple[int, str]:
    """Return the broker's reply code and words to a request, made on a channel of its own: a refusal closes it.

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
        connection.collect()  # a close would wait for an answer too
        raise
    return ACCEPTED, ""
