"""Celery's consumer, less its native delayed delivery: the lanes hold what waits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery.worker import consumer as celery_consumer

if TYPE_CHECKING:
    from kombu.message import Message

logger = logging.getLogger(__name__)

_NATIVE_DELAY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""It would declare 28 exchanges and queues and bind ``#.<key>``, which catches other queues' keys."""


class Consumer(celery_consumer.Consumer):
    """The consumer blueprint of our workers."""

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps but one."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Send what cannot be decoded to the dead letters; Celery would acknowledge it, and it would be gone."""
        logger.error(
            "message that cannot be decoded goes to the dead letters: %r, headers %r", exc, message.headers
        )
        message.reject_log_error(logger, self.connection_errors)
