"""Celery's consumer, less its native delayed delivery, and quick with green threads."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ConsumerCancelled
from celery.worker import consumer as celery_consumer
from celery.worker import loops

from broker_app.connections import discard

if TYPE_CHECKING:
    from kombu.message import Message

_NATIVE_DELAY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""It would declare 28 exchanges and queues and bind ``#.<key>``, which catches other queues' keys."""

_EVENT_DRAIN_SECONDS = 1.0
"""How often the heartbeats on the event connection are read; the broker sends one in half a heartbeat."""

_CANCEL_CHECK_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Consumer(celery_consumer.Consumer):
    """The consumer blueprint of our workers."""

    loop: Any
    amqheartbeat: Any

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps but one."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.loop is loops.synloop and getattr(self.pool, "is_green", False):
            self.loop = self._green_loop

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Leave the event connection too, which was lost with the other.

        Celery would bid it farewell and wait for the answer: on a network that is cut off, for ever.
        """
        super().on_connection_error_after_connected(exc)
        events = self.event_dispatcher and self.event_dispatcher.connection
        if events:
            discard(events)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Send what cannot be decoded to the dead letters; Celery would acknowledge it, and it would be gone."""
        logger.error(
            "message that cannot be decoded goes to the dead letters: %r, headers %r", exc, message.headers
        )
        message.reject_log_error(logger, self.connection_errors)

    def on_ready(self) -> None:
        """Look once more, a moment after the start, whether the broker still has our consumers.

        Celery's loop begins with a read whose errors it drops (celery/worker/loops.py, ``_quick_drain``): if that
        is the word that a queue was deleted, the worker would never consume from it again.
        """
        super().on_ready()
        if self.hub:
            self.timer.call_after(_CANCEL_CHECK_SECONDS, self._raise_if_cancelled)

    def _raise_if_cancelled(self) -> None:
        """Make the loop start over, as it does when it hears of a cancelled consumer itself."""
        consumer = self.task_consumer
        if consumer is None or consumer.channel.connection is None:
            return  # it is starting over already
        for tag in consumer._active_tags.values():  # noqa: SLF001 - kombu tells them nowhere else
            if tag not in consumer.channel.callbacks:
                raise ConsumerCancelled(tag)

    def _green_loop(self, *args: Any) -> None:
        """Run Celery's loop without its wait of 0.1 s on the event connection after every message.

        With heartbeats on, that wait holds a green worker to ten messages a second (celery/worker/loops.py,
        ``_quick_drain``). The loop waits so only while ``amqheartbeat`` is set; the heartbeats themselves run on
        timers, and what the broker sends on the event connection is read by one of ours.
        """
        heartbeat, self.amqheartbeat = self.amqheartbeat, 0
        reader = self.timer.call_repeatedly(_EVENT_DRAIN_SECONDS, self._read_event_connection)
        try:
            loops.synloop(*args)
        finally:
            reader.cancel()
            self.amqheartbeat = heartbeat

    def _read_event_connection(self) -> None:
        """Read what has come, without waiting; a broken connection is found by its heartbeat."""
        connection = self.event_dispatcher and self.event_dispatcher.connection
        if not connection or not connection.connected:
            return
        try:
            connection.drain_events(timeout=0)
        except OSError as error:  # a time-out, too, is one: nothing had come
            logger.debug("event connection: %r", error)
