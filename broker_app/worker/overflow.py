"""Overflow: an idle worker takes tasks of other queues, up to a fixed number of its slots.

It consumes the other queues on a dedicated channel, at a lower priority than their own workers, to which the
broker delivers first (rabbitmq.com/docs/consumer-priority). The channel's prefetch bounds the number of tasks. As
soon as the worker's own queue could need the slots, the worker stops consuming and returns the unstarted tasks.

A task keeps its own queue's delivery limit, dead letters, retries and metrics.
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
"""``x-priority`` of an overflow consumer; the default is 0."""

logger = logging.getLogger(__name__)


class Overflow:
    """Consumes other queues while the worker is idle.

    Args:
        app: The worker's app.
        specs: The other queues.
        slots: Slots reserved for each of them.
        total: All slots of the worker.
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
        """The overflow consumers; None if this connection has none."""
        return self._subscription

    @property
    def is_wanted(self) -> bool:
        """True if there are other queues to consume."""
        return bool(self._specs)

    def begin(self, connection: Any, handler: Callable[[Message], object], on_decode_error: Any) -> None:
        """Create the consumers on a dedicated channel; `look` starts them.

        Args:
            connection: The worker's kombu connection.
            handler: Called with each message.
            on_decode_error: Called with each undecodable message.
        """
        self._subscription = None
        if not self._specs:
            return
        try:
            declare_topology(connection.connection, work_topology(self._specs, self._app.settings.prefix))
        except BrokerError as error:
            logger.debug("the overflow queues are used as they are: %s", error)
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
        self._subscription = Consumers(
            self._app.settings, consumer, prefetch=1, limit=self._slots, is_helping=True
        )
        self._subscription.allow_long_runs()
        self._subscription.pause(self._names)

    def look(self, own: int, paused: AbstractSet[str]) -> bool:
        """Start or stop consuming, depending on the worker's free slots.

        Args:
            own: Number of unfinished tasks of the worker's own queue.
            paused: Queues that an operator has paused, by their names on the broker.

        Returns:
            Whether it consumes now. If not, the caller must return the unstarted tasks.
        """
        if self._subscription is None or self._subscription.connection is None:
            return False
        is_idle = own + self._slots * len(self._specs) <= self._total
        self._subscription.pause(paused & self._names if is_idle else self._names)
        if is_idle and not self._subscription.renew():
            logger.warning("this worker takes no overflow until it has reconnected")
            self._subscription = None
        return is_idle

    def is_helped(self, spec: QueueSpec) -> bool:
        """Return whether a queue is one of the other queues."""
        return spec.broker_name in self._names

    def channels(self) -> list[Any]:
        """Return the channel that delivers overflow, or an empty list."""
        return [] if self._subscription is None else [self._subscription.channel]

    def end(self) -> None:
        """Cancel the consumers."""
        if self._subscription is not None:
            self._subscription.end()


def helping_of(app: Celery, total: int) -> Overflow:
    """Return a worker's overflow as its queue's settings define it; a worker of several queues takes none.

    Args:
        app: The worker's app, with its queues selected.
        total: The worker's slots.
    """
    table, queues = app.settings.routing_table(), app.settings.queues
    own = {table.queue(name).name for name in app.amqp.queues.consume_from}
    fleet = queues[next(iter(own))].fleet if len(own) == 1 else None
    helps = fleet.helps if fleet is not None else ()
    slots = fleet.helps_slots if fleet is not None else 0
    if slots * len(helps) >= total:
        logger.warning("this worker takes no overflow: with -c %d its own queue would have no slot left", total)
        helps = ()
    return Overflow(app, tuple(table.queue(name) for name in helps), slots, total)
