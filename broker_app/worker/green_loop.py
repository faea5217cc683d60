"""Green loop: Celery's loop for gevent, without its wait after every message."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker import loops

_EVENT_DRAIN_SECONDS = 1.0
"""Interval for reading heartbeats on the event connection; the broker sends one every half heartbeat interval."""

logger = logging.getLogger(__name__)


def green_loop(consumer: Any, *args: Any) -> None:
    """Run Celery's loop without its 0.1 s wait on the event connection after every message.

    With heartbeats enabled, that wait limits a green worker to ten messages a second (celery/worker/loops.py,
    ``_quick_drain``). The loop only waits while ``amqheartbeat`` is set. Heartbeats are sent by timers, and a
    timer of ours reads from the event connection.

    Args:
        consumer: Celery's consumer.
        *args: The other arguments of Celery's loop.
    """
    heartbeat, consumer.amqheartbeat = consumer.amqheartbeat, 0
    reader = consumer.timer.call_repeatedly(_EVENT_DRAIN_SECONDS, _read_events, (consumer,))
    try:
        loops.synloop(consumer, *args)
    finally:
        reader.cancel()
        consumer.amqheartbeat = heartbeat


def _read_events(consumer: Any) -> None:
    """Read pending data without waiting; the heartbeat detects a broken connection."""
    connection = consumer.event_dispatcher and consumer.event_dispatcher.connection
    if not connection or not connection.connected:
        return
    try:
        connection.drain_events(timeout=0)
    except OSError as error:  # includes the time-out when there is no data
        logger.debug("event connection: %r", error)
