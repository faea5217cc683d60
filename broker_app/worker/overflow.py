"""Helping out: an idle worker takes the overflow of other queues, for so many of its slots and no more.

It consumes the other queue on a channel of its own, at a lower priority than the workers of that queue: the broker
fills those first (rabbitmq.com/docs/consumer-priority). What it holds is bounded by its prefetch. As soon as its
own queue could need the slots it takes no more, and gives back what it has not begun.

A task keeps its own queue in all that counts: delivery limit, dead letters, retries, metrics.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from broker_app.broker.declare import declare_topology
from broker_app.errors import BrokerError
from broker_app.queues import work_queue, work_topology
from broker_app.worker.consumers import Consumers

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from celery import Celery
    from kombu.message import Message

    from broker_app.queues import QueueSpec

HELPER_PRIORITY = -10
"""``x-priority`` of a helping consumer; without the argument it is 0."""

logger = logging.getLogger(__name__)


class Overflow:
    """What a worker takes of other queues.

    Args:
        app: The worker's app.
        specs: The queues.
        slots: That it gives to each of them.
        total: All that it has.
    """

    def __init__(self, app: Celery, specs: tuple[QueueSpec, ...], slots: int, total: int) -> None:
        self._app = app
        self._specs = specs
        self._slots = slots
        self._total = total
        self._names = frozenset(spec.broker_name for spec in specs)
        self._subscription: Consumers | None = None

    @property
    def subscription(self) -> Consumers | None:
        """Its consumers; None if it has none on this connection."""
        return self._subscription

    @property
    def is_wanted(self) -> bool:
        """Whether there is any queue to help."""
        return bool(self._specs)

    def begin(self, connection: Any, handler: Callable[[Message], object], on_decode_error: Any) -> None:
        """Make the consumers, on a channel of their own; `look` lets them consume.

        Args:
            connection: kombu's, of the worker.
            handler: What takes a message.
            on_decode_error: What takes one that cannot be decoded.
        """
        self._subscription = None
        if not self._specs:
            return
        try:
            declare_topology(connection.connection, work_topology(self._specs, self._app.settings.prefix))
        except BrokerError as error:
            logger.debug("the queues that it helps are used as they are: %s", error)
        channel = connection.channel()
        channel.basic_qos(0, self._slots, a_global=False)
        queues: list[Any] = [work_queue(spec) for spec in self._specs]
        for queue in queues:
            queue.consumer_arguments = {"x-priority": HELPER_PRIORITY}
        consumer = self._app.amqp.Consumer(
            channel,
            queues=queues,
            accept=self._app.conf.accept_content,
            on_message=handler,
            on_decode_error=on_decode_error,
        )
        self._subscription = Consumers(self._app.settings, consumer, 1, is_helping=True)
        self._subscription.allow_long_runs()
        self._subscription.pause(self._names)

    def look(self, home: int, paused: AbstractSet[str]) -> bool:
        """Take more, or no more.

        Args:
            home: Tasks of the worker's own queue that it holds.
            paused: Queues that an operator has paused, by their names on the broker.

        Returns:
            Whether it takes more now. If not, what it has not begun is to be given back.
        """
        if self._subscription is None or self._subscription.connection is None:
            return False
        is_idle = home + self._slots * len(self._specs) <= self._total
        self._subscription.pause(paused & self._names if is_idle else self._names)
        if is_idle and not self._subscription.renew():
            logger.warning("it helps nobody until it is connected again")
            self._subscription = None
        return is_idle

    def is_helped(self, spec: QueueSpec) -> bool:
        """Return whether a queue is one that it helps."""
        return spec.broker_name in self._names

    def channels(self) -> list[Any]:
        """Return the channel that its messages come by, if there is one."""
        return [] if self._subscription is None else [self._subscription.channel]

    def end(self) -> None:
        """Tell the broker to send no more."""
        if self._subscription is not None:
            self._subscription.end()


def helping_of(app: Celery, total: int) -> Overflow:
    """Return what a worker helps with: what the settings of its queue say, if it has one queue alone.

    Args:
        app: The worker's app, its queues chosen.
        total: Its slots.
    """
    table, queues = app.settings.routing_table(), app.settings.queues
    own = {table.queue(name).name for name in app.amqp.queues.consume_from}
    fleet = queues[next(iter(own))].fleet if len(own) == 1 else None
    helps = fleet.helps if fleet is not None else ()
    slots = fleet.helps_slots if fleet is not None else 0
    if slots * len(helps) >= total:
        logger.warning("it helps nobody: with -c %d its own queue would have no slot left", total)
        helps = ()
    return Overflow(app, tuple(table.queue(name) for name in helps), slots, total)
