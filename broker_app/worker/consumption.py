"""What a worker takes at the moment: nothing of paused queues, and of others' queues only while it is idle."""

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
    """What Celery's consumer does not know: consumers that begin and end while it works."""

    app: Any
    pool: Any
    connection: Any
    task_consumer: Any
    create_task_handler: Callable[..., Callable[[Message], None]]
    _look_round: Callable[[], None]
    _helping: Overflow
    _pauses: Pauses
    _runs: Deliveries
    _stopping: Shutdown
    _subscription: Consumers | None

    def _begin_to_select(self) -> None:
        """Leave out what is paused, before the worker consumes; and make ready to help."""
        if self._subscription is not None:
            self._subscription.pause(self._pauses.broker_queues)
        self._helping.begin(self.connection, self.create_task_handler(), self.on_decode_error)

    def add_task_queue(self, queue: str, *_args: Any, **_options: Any) -> None:
        """Consume from one more queue of the settings (``add_consumer``), from now on and on later connections.

        An unknown one is refused before (`broker_app.worker.remote_control`): Celery would make it up, and the
        worker would end at its next lost connection, when nothing says how to declare it.
        """
        queues = self.app.amqp.queues
        added = queues.select_add(queues[self.app.settings.routing_table().queue(queue).name])
        if self._subscription is None or self.task_consumer.consuming_from(added.name):
            return
        try:
            self._subscription.add(added)
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("%s cannot be consumed: %s", queue, error_text(error))
            queues.deselect(queue)

    def _apply_pauses(self) -> None:
        """Follow a pause or a resumption; what was not begun of a paused queue goes back."""
        if self._subscription is None or self._subscription.connection is None or self._stopping.is_begun:
            return
        self._subscription.pause(self._pauses.broker_queues)
        self._give_back_unstarted(self._is_paused)
        self._look_round()

    def _look_for_help(self) -> None:
        """Help others while the worker's own queue leaves it slots; else give back what was not begun for them."""
        if not self._helping.is_wanted:
            return
        home = sum(not self._is_helped(run.request) for run in self._runs.all())
        if not self._helping.look(home, self._pauses.broker_queues):
            self._give_back_unstarted(self._is_helped)

    def _is_paused(self, request: Request) -> bool:
        if not self._pauses.queues:
            return False
        spec = request.spec or self.gate.spec_of(request.message)
        return spec is not None and spec.name in self._pauses.queues

    def _is_helped(self, request: Request) -> bool:
        return request.spec is not None and self._helping.is_helped(request.spec)

    def _is_late(self, message: Message) -> bool:
        """Return whether a message was on its way when its consumer was ended."""
        own, helping = self._subscription, self._helping.subscription
        return (own is not None and own.is_late(message)) or (helping is not None and helping.is_late(message))

    def _queue_of(self, message: Message) -> str | None:
        """Return the broker's name of the queue that a message was taken from."""
        own, helping = self._subscription, self._helping.subscription
        name = own.queue_of(message) if own is not None else None
        return name or (helping.queue_of(message) if helping is not None else None)

    def _channels(self) -> list[Any]:
        """Return the channels that messages come by."""
        own = [self.task_consumer.channel] if self.task_consumer else []
        return [*own, *self._helping.channels()]

    def _give_back_unstarted(self, is_unwanted: Callable[[Request], bool]) -> None:
        unstarted = self._runs.withdraw(self.pool, is_unwanted)
        self.gate.withdraw([run.request for run in unstarted])
        for run in unstarted:
            for message in run.deliveries:
                give_back(message)
            state.task_ready(run.request)
