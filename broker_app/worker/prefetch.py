"""Automatic prefetch: adapts what a worker may hold to the run times of its tasks, several times a second."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPError
from celery.worker import state

from broker_app.celery_integration.config import AutoPrefetch
from broker_app.wire.errors import error_text
from broker_app.worker.prefetch_rule import Load, PrefetchRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery import Celery
    from kombu.message import Message

    from broker_app.settings.queue import QueueSettings
    from broker_app.worker.consumers import Consumers
    from broker_app.worker.consumption import Consumption
    from broker_app.worker.deliveries import Deliveries
    from broker_app.worker.request import Request

LOOK_SECONDS = 0.1

_REFILLS_AT_ONCE = 8
"""After messages were returned, the worker consumes again in at most about so many steps within a second."""

_LEAST_DELIVERY_LIMIT = 3
"""Below this, a redelivered message runs alone, or never; so none may be returned without need."""

logger = logging.getLogger(__name__)


class PrefetchControl:
    """Applies `PrefetchRule` to a worker's consumers.

    Args:
        slots: The worker's slots, and the messages that it may always hold.
        consumption: The queue that it consumes.
        deliveries: The tasks that were handed to the pool.
        may_return: Returns whether waiting messages can be returned without harm, should it be necessary.
        give_back_unstarted: Returns unstarted tasks to their queues; called with a function that selects them.
    """

    def __init__(
        self,
        *,
        slots: int,
        consumption: Consumption,
        deliveries: Deliveries,
        may_return: Callable[[], bool],
        give_back_unstarted: Callable[[Callable[[Request], bool]], object],
    ) -> None:
        self._slots = slots
        self._consumption = consumption
        self._deliveries = deliveries
        self._may_return = may_return
        self._give_back_unstarted = give_back_unstarted
        self._rule = PrefetchRule(slots, time.monotonic())
        self._consumers: Consumers | None = None
        self._refilled_at = 0.0

    @property
    def limit(self) -> int:
        """The number of messages that the worker may hold."""
        consumers = self._consumption.own
        return self._slots if consumers is None else max(self._slots, consumers.limit)

    def run(self) -> bool:
        """Look at the worker's load, and let it hold more or fewer messages.

        Returns:
            False if the connection is lost.
        """
        consumers, now = self._consumption.own, time.monotonic()
        if consumers is None or consumers.connection is None:
            return True
        if consumers is not self._consumers:
            self._consumers = consumers
            self._rule.reset(now)
        try:
            self._apply(consumers, self._wanted(consumers, now), now)
        except (AMQPError, OSError) as error:
            logger.warning("failed to change the prefetch: %s", error_text(error))
            return False
        return True

    def _wanted(self, consumers: Consumers, now: float) -> int:
        ended, run_seconds = self._deliveries.take_ended()
        if not self._may_return() or not consumers.is_single:
            self._rule.reset(now)
            return 0
        waited = self._waited_seconds(now) if self._rule.extra else 0.0
        return self._rule.look(Load(ended, run_seconds, waited), now)

    def _waited_seconds(self, now: float) -> float:
        for run in self._deliveries.all():  # in the order of their admission
            if run.end is None and not run.is_started:
                return now - run.since
        return 0.0

    def _apply(self, consumers: Consumers, wanted: int, now: float) -> None:
        if not consumers.is_single:
            consumers.end_extra()
        elif consumers.is_narrowed:
            self._refill(consumers, now)
        elif consumers.limit > self._slots + wanted:
            logger.debug("holds one message per slot again")
            consumers.narrow()
            self._give_back_unstarted(lambda request: request.message.channel is consumers.channel)
            self._refilled_at = now
        elif wanted and consumers.consumed() and (missing := self._slots + wanted - consumers.limit) > 0:
            logger.debug("holds %d messages more than slots", wanted)
            consumers.widen(missing)

    def _refill(self, consumers: Consumers, now: float) -> None:
        is_long_ago = now - self._refilled_at >= 1
        before = consumers.limit
        consumers.refill(self._held(), 1 if is_long_ago else self._slots // _REFILLS_AT_ONCE)
        if consumers.limit != before:
            self._refilled_at = now

    def _held(self) -> Iterable[Message]:
        """Return the unacknowledged messages, also those that timers or the store hold."""
        messages = [message for run in self._deliveries.all() for message in run.deliveries]
        messages += [request.message for request in tuple(state.requests.values())]
        return {id(message): message for message in messages}.values()


def is_adaptable(app: Celery, pool: Any, controller: Any) -> bool:
    """Return whether a worker adapts its prefetch.

    It does so if it consumes one queue whose settings ask for it, and if its pool can return messages that wait
    for a slot: threads and gevent can. A number that the user chose for the worker takes precedence.
    """
    chosen = controller.options.get("prefetch_multiplier") or app.conf.worker_prefetch_multiplier
    can_return = hasattr(pool, "executor") or getattr(pool, "is_green", False)
    table = app.settings.routing_table()
    queues = {table.queue(name).name for name in app.amqp.queues.consume_from}
    if not (isinstance(chosen, AutoPrefetch) and can_return and len(queues) == 1):
        return False
    settings: QueueSettings = app.settings.queues[queues.pop()]
    return settings.prefetch == "auto" and settings.delivery_limit >= _LEAST_DELIVERY_LIMIT
