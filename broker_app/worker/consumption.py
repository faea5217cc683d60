"""Consumption: starts and stops consumers at run time, for pauses, added queues and overflow."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError
from celery.worker import state

from broker_app.errors import BrokerError
from broker_app.wire.errors import error_text
from broker_app.worker.invalid_messages import InvalidMessages
from broker_app.worker.shutdown import give_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.message import Message

    from broker_app.broker.pauses import Pauses
    from broker_app.worker.consumers import Consumers
    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.overflow import Overflow
    from broker_app.worker.request import Request
    from broker_app.worker.shutdown import Shutdown


logger = logging.getLogger(__name__)


class Consumption(InvalidMessages):
    """Adds consumers that start and stop at run time to Celery's consumer."""

    app: Any
    pool: Any
    connection: Any
    task_consumer: Any
    create_task_handler: Callable[..., Callable[[Message], None]]
    _check_consumers: Callable[[], None]
    _overflow: Overflow
    _pauses: Pauses
    _deliveries: Deliveries
    _shutdown: Shutdown
    _subscription: Consumers | None

    def _start_consumption(self) -> None:
        """Apply the pauses before the worker consumes, and create the overflow consumers."""
        if self._subscription is not None:
            self._subscription.pause(self._pauses.broker_queues)
        self._overflow.begin(self.connection, self.create_task_handler(), self.on_decode_error)

    def add_task_queue(self, queue: str, *_args: Any, **_options: Any) -> None:
        """Consume from another queue of the settings (``add_consumer``), on this and on later connections.

        `broker_app.worker.remote_control` has already refused unknown queues: Celery would invent one, and the
        worker would exit at its next lost connection, because the settings do not say how to declare it.
        """
        queues = self.app.amqp.queues
        added = queues.select_add(queues[self.app.settings.routing_table().queue(queue).name])
        if self._subscription is None or self.task_consumer.consuming_from(added.name):
            return
        try:
            self._subscription.add(added)
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("cannot consume from %s: %s", queue, error_text(error))
            queues.deselect(queue)

    def _apply_pauses(self) -> None:
        """Apply a pause or a resumption; unstarted tasks of paused queues are returned."""
        if self._subscription is None or self._subscription.connection is None or self._shutdown.is_begun:
            return
        self._subscription.pause(self._pauses.broker_queues)
        self._give_back_unstarted(self._is_paused)
        self._check_consumers()

    def _update_overflow(self) -> None:
        """Take overflow while the worker has free slots; otherwise return the unstarted tasks of other queues."""
        if not self._overflow.is_wanted:
            return
        own = sum(not self._is_helped(run.request) for run in self._deliveries.all())
        if not self._overflow.look(own, self._pauses.broker_queues):
            self._give_back_unstarted(self._is_helped)

    def _is_paused(self, request: Request) -> bool:
        if not self._pauses.queues:
            return False
        spec = request.spec or self.admission.spec_of(request.message)
        return spec is not None and spec.name in self._pauses.queues

    def _is_helped(self, request: Request) -> bool:
        return request.spec is not None and self._overflow.is_helped(request.spec)

    def _is_late(self, message: Message) -> bool:
        """Return whether a message was in transit when its consumer was cancelled."""
        own, helping = self._subscription, self._overflow.subscription
        return (own is not None and own.is_late(message)) or (helping is not None and helping.is_late(message))

    def _queue_of(self, message: Message) -> str | None:
        """Return the broker's name of the queue that delivered a message, None if it is unknown."""
        own, helping = self._subscription, self._overflow.subscription
        name = own.queue_of(message) if own is not None else None
        return name or (helping.queue_of(message) if helping is not None else None)

    def _channels(self) -> list[Any]:
        """Return the channels that deliver tasks."""
        own = [self.task_consumer.channel] if self.task_consumer else []
        return [*own, *self._overflow.channels()]

    def _give_back_unstarted(self, is_unwanted: Callable[[Request], bool]) -> None:
        unstarted = self._deliveries.withdraw(self.pool, is_unwanted)
        self.admission.withdraw([run.request for run in unstarted])
        for run in unstarted:
            for message in run.deliveries:
                give_back(message)
            state.task_ready(run.request)
