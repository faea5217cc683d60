"""Side publisher: publishes dead letters and crash log entries on a dedicated connection.

The consuming connection is unsuitable: waiting there for a confirm would read tasks. So is the producer pool:
tasks may hold all of its connections.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from broker_app.errors import BrokerUnreachable, PublishError, QueueFull
from broker_app.publishing.publisher import Publisher
from broker_app.wire.connection import discard

if TYPE_CHECKING:
    from broker_app.broker.access import Broker
    from broker_app.publishing.message import OutgoingMessage

SEND_SECONDS = 5.0
"""Time limit for one message. It may be sent from the consumer's loop, which blocks meanwhile."""

REST_SECONDS = 10.0
"""Pause after a failed publish to an exchange, so that a broker in trouble does not delay every task."""


class SidePublisher:
    """Publishes with confirms, from any thread, one message at a time. Not for use in a pool's child process.

    Args:
        app: The worker's app.
    """

    def __init__(self, app: Broker) -> None:
        settings = app.settings
        self._publisher = Publisher(app, settings.routing_table(), settings.prefix, SEND_SECONDS)
        self._connection: Any = app.connection_for_write()
        self._lock = threading.Lock()
        self._paused_until: dict[str, float] = {}  # by exchange, in the time of time.monotonic

    def send(self, outgoing: OutgoingMessage) -> None:
        """Publish a message and wait until the broker has confirmed it.

        Raises:
            PublishError: The broker did not confirm it within `SEND_SECONDS`; or publishing to this exchange
                failed less than `REST_SECONDS` ago, and was not tried.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._paused_until.get(outgoing.exchange, now):
                raise outgoing.refused(BrokerUnreachable, "publishing to this exchange failed a moment ago")
            try:
                self._publisher.deliver(self._connection, outgoing, now + SEND_SECONDS)
            except QueueFull:
                raise  # the broker answered at once, and another queue may have room
            except PublishError:
                self._paused_until[outgoing.exchange] = time.monotonic() + REST_SECONDS
                raise

    def close(self) -> None:
        """Drop the connection; the next message opens another."""
        with self._lock:
            discard(self._connection)
