"""Celery's consumer without its native delayed delivery: the lanes hold what waits."""

from __future__ import annotations

from celery.worker import consumer as celery_consumer

_NATIVE_DELAY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""It would declare 28 exchanges and queues and bind ``#.<key>``, which catches other queues' keys."""


class Consumer(celery_consumer.Consumer):
    """The consumer blueprint of our workers."""

    class Blueprint(celery_consumer.Consumer.Blueprint):
        """Celery's steps but one."""

        default_steps = tuple(
            step for step in celery_consumer.Consumer.Blueprint.default_steps if step != _NATIVE_DELAY
        )
