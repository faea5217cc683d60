"""What a worker publishes about its work, on a connection of its own: dead letters, and who is suspected.

The connection that tasks come by cannot be used for it: waiting there for a confirmation would read tasks. The
pool of producers cannot either: tasks may hold all of its connections.
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
"""Bound of one message: it may be sent from the loop that takes tasks, which waits as long."""

REST_SECONDS = 10.0
"""How long nothing is tried on an exchange that took nothing: a broker in trouble must not hold up each task."""


class SidePublisher:
    """Publishes confirmed, from any thread, one message at a time. Not for a pool's child process.

    Args:
        app: The worker's app.
    """

    def __init__(self, app: Broker) -> None:
        settings = app.settings
        self._publisher = Publisher(app, settings.routing_table(), settings.prefix, SEND_SECONDS)
        self._connection: Any = app.connection_for_write()
        self._lock = threading.Lock()
        self._rests: dict[str, float] = {}  # until when, by exchange, on the clock of time.monotonic

    def send(self, outgoing: OutgoingMessage) -> None:
        """Return when the broker has confirmed a message.

        Raises:
            PublishError: It has not, in `SEND_SECONDS`; or it was not asked, because it failed a moment ago.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._rests.get(outgoing.exchange, now):
                raise outgoing.refused(BrokerUnreachable, "the broker took nothing a moment ago")
            try:
                self._publisher.deliver(self._connection, outgoing, now + SEND_SECONDS)
            except QueueFull:
                raise  # it answered at once, and another queue may have room
            except PublishError:
                self._rests[outgoing.exchange] = time.monotonic() + REST_SECONDS
                raise

    def close(self) -> None:
        """Drop the connection; the next message opens another."""
        with self._lock:
            discard(self._connection)
