"""Give back: returns messages to their queues, without counting as failed deliveries.

A nack does not count as a failed delivery since RabbitMQ 4.3, while a reject does
(rabbitmq.com/docs/quorum-queues#poison-message-handling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp import spec
from celery.worker import state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kombu.message import Message

    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.poison.suspects import Suspects
    from broker_app.worker.request import Request

_NACK = "Lbb"
"""delivery-tag, multiple, requeue (rabbitmq.com/docs/nack); py-amqp defines the method but cannot send it."""


def give_back(message: Message) -> None:
    """Return a message to its queue."""
    if message.channel.connection is not None and not message.acknowledged:
        message.channel.send_method(spec.Basic.Nack, _NACK, (message.delivery_tag, False, True))
        message._state = "REQUEUED"  # noqa: SLF001 - as `requeue` does


def give_back_all(channels: Iterable[Any]) -> None:
    """Return all unacknowledged messages of some channels to their queues."""
    for channel in channels:
        if channel.connection is not None:
            channel.send_method(spec.Basic.Nack, _NACK, (0, True, True))


def give_back_unstarted(
    pool: Any, deliveries: Deliveries, suspects: Suspects, is_unwanted: Callable[[Request], bool]
) -> None:
    """Return selected tasks that the pool has not started to their queues; the others keep their order.

    Args:
        pool: Celery's pool.
        deliveries: The tasks that were handed to it.
        suspects: Those of them that wait for another suspect.
        is_unwanted: Returns whether to return a request's task.
    """
    unstarted = deliveries.withdraw(pool, is_unwanted)
    suspects.withdraw([run.request for run in unstarted])
    for run in unstarted:
        for message in run.deliveries:
            give_back(message)
        state.task_ready(run.request)
