"""The reasons why the broker cannot be reached, in plain words."""

from __future__ import annotations

import pytest
from pika.adapters.utils.connection_workflow import (
    AMQPConnectorAMQPHandshakeError,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)

from broker_app.messages.channel import _words

SILENCE = AMQPConnectorStackTimeout("Timeout during AMQP handshake'127.0.0.1'/(…); ssl=False")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AMQPConnectorAMQPHandshakeError(SILENCE), "timed out"),
        (AMQPConnectorSocketConnectError(SILENCE), "timed out"),
        (AMQPConnectorSocketConnectError(ConnectionRefusedError(111, "Refused")), "[Errno 111] Refused"),
    ],
)
def test_the_innermost_reason(error: Exception, words: str) -> None:
    """A silent broker has timed out, however often the client library wraps its error."""
    assert _words(error) == words
