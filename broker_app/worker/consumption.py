"""Consumption: which queues a worker consumes now, with pauses, added queues and overflow."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError

from broker_app.broker.pauses import Pauses
from broker_app.errors import BrokerError, RoutingError
from broker_app.wire.errors import error_text
from broker_app.worker.consumers import Consumers
from broker_app.worker.overflow import helping_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from kombu.message import Message

    from broker_app.broker.control_streams import Stream
    from broker_app.queues import QueueSpec
    from broker_app.worker.request import Request

logger = logging.getLogger(__name__)


class Consumption:
    """The queues of one worker.

    Args:
        app: The worker's app, with its queues selected.
        slots: The worker's slots.
        prefetch: Messages prefetched for each slot.
        on_pause: Called when the set of paused queues has changed.
        give_back_unstarted: Returns unstarted tasks to their queues; called with a function that selects them.
    """

    def __init__(
        self,
        app: Celery,
        *,
        slots: int,
        prefetch: int,
        on_pause: Callable[[], object],
        give_back_unstarted: Callable[[Callable[[Request], bool]], object],
    ) -> None:
        self._app = app
        self._table = app.settings.routing_table()
        self._slots, self._prefetch = slots, prefetch
        self._give_back_unstarted = give_back_unstarted
        self._pauses = Pauses(app, on_pause)
        self._overflow = helping_of(app, slots)
        self._own: Consumers | None = None
        self._specs: dict[str, QueueSpec] = {}  # by consumer tag, which kombu uses once in a process

    @property
    def pause_stream(self) -> Stream:
        """The stream of pauses, for the worker to follow."""
        return self._pauses.stream

    @property
    def is_begun(self) -> bool:
        """True once the worker has consumed; its connection may be lost meanwhile."""
        return self._own is not None

    @property
    def own(self) -> Consumers | None:
        """The consumers of the worker's own queues; None until it has consumed."""
        return self._own

    @property
    def connection(self) -> Any:
        """py-amqp's connection; None if it is lost."""
        return None if self._own is None else self._own.connection

    @property
    def consumed(self) -> tuple[str, ...]:
        """The worker's own queues that are being consumed, by their names on the broker."""
        return () if self._own is None else self._own.consumed()

    @property
    def paused(self) -> tuple[str, ...]:
        """The worker's own queues that are paused, by their names on the broker."""
        return () if self._own is None else self._own.paused

    @property
    def channels(self) -> list[Any]:
        """The channels that deliver tasks."""
        own = [] if self._own is None else [self._own.channel]
        return [*own, *self._overflow.channels()]

    def begin(
        self, connection: Any, consumer: Any, handler: Callable[[Message], object], on_decode_error: Any
    ) -> None:
        """Apply the pauses before the worker consumes on a new connection, and create the overflow consumers.

        Args:
            connection: The worker's kombu connection.
            consumer: Celery's task consumer.
            handler: Called with each message of the overflow.
            on_decode_error: Called with each of them that is undecodable.
        """
        limit = self._slots * self._prefetch
        self._own = Consumers(self._app.settings, consumer, prefetch=self._prefetch, limit=limit)
        self._own.allow_long_runs()
        self._own.pause(self._pauses.broker_queues)
        self._specs = {}
        self._overflow.begin(connection, handler, on_decode_error)

    def keep(self) -> None:
        """Keep the connection when the broker cancels a consumer; call this once the worker consumes."""
        if self._own is not None:
            self._own.keep()

    def add(self, queue: str) -> None:
        """Consume from another queue of the settings, on this and on later connections."""
        queues = self._app.amqp.queues
        added = queues.select_add(queues[self._table.queue(queue).name])
        if self._own is None or added.name in self._own:
            return
        try:
            self._own.add(added)
        except (BrokerError, AMQPError, OSError) as error:
            logger.warning("cannot consume from %s: %s", queue, error_text(error))
            queues.deselect(queue)

    def apply_pauses(self) -> bool:
        """Apply a pause or a resumption; unstarted tasks of paused queues are returned.

        Returns:
            False without a connection; the pauses are then applied to the next one.
        """
        if self._own is None or self._own.connection is None:
            return False
        self._own.pause(self._pauses.broker_queues)
        self._give_back_unstarted(self.is_paused)
        return True

    def update_overflow(self, running: list[Request]) -> None:
        """Take overflow while the worker has free slots; otherwise return the unstarted tasks of other queues.

        Args:
            running: The tasks that were handed to the pool.
        """
        if not self._overflow.is_wanted:
            return
        own = sum(not self._is_helped(request) for request in running)
        if not self._overflow.look(own, self._pauses.broker_queues):
            self._give_back_unstarted(self._is_helped)

    def renew(self) -> bool:
        """Consume again from queues whose consumers the broker has cancelled; see `Consumers.renew`."""
        return self._own is None or self._own.renew()

    def on_lost_connection(self) -> None:
        """Prepare to read the pauses from the beginning of their stream again."""
        self._pauses.begin_anew()

    def end(self) -> None:
        """Cancel all consumers."""
        if self._own is not None:
            self._own.end()
            self._overflow.end()

    def is_paused(self, request: Request) -> bool:
        """Return whether the queue that delivered a request is paused."""
        if not self._pauses.queues:
            return False
        return request.spec is not None and request.spec.name in self._pauses.queues

    def is_late(self, message: Message) -> bool:
        """Return whether a message was in transit when its consumer was cancelled."""
        for consumers in self._all():  # noqa: SIM110 - a generator takes twice as long, for each message
            if consumers.is_late(message):
                return True
        return False

    def spec_of(self, message: Message) -> QueueSpec | None:
        """Return the queue that delivered a message, None if it is unknown or the settings do not have it."""
        tag = message.delivery_info.get("consumer_tag", "")
        spec = self._specs.get(tag)
        if spec is None:
            name = next(filter(None, (consumers.queue_of(tag) for consumers in self._all())), None)
            spec = None if name is None else self._spec(name)
            if spec is not None:
                self._specs[tag] = spec
        return spec

    def name_queue(self, message: Message) -> None:
        """Replace the exchange and routing key of a message's last lane with those of its queue.

        Celery copies them to ``delivery_info``, results and events, and retries are published with them.
        """
        spec = self.spec_of(message)
        if spec is not None:
            message.delivery_info.update(exchange="", routing_key=spec.broker_name)

    def _all(self) -> tuple[Consumers, ...]:
        own, helped = self._own, self._overflow.subscription
        if helped is None:
            return () if own is None else (own,)
        return (helped,) if own is None else (own, helped)

    def _spec(self, name: str) -> QueueSpec | None:
        try:
            spec: QueueSpec = self._table.queue(name)
        except RoutingError:
            return None
        return spec

    def _is_helped(self, request: Request) -> bool:
        return request.spec is not None and self._overflow.is_helped(request.spec)
